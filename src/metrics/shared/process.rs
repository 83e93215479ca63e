//! Which processes there are: a number that is used again is told apart by the time its process
//! started. Must not know: the mapping.

use std::fs;

/// A process, for ever: its number, and when it started, in ticks since the machine did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) pid: u64,
    pub(super) started: u64,
}

impl Identity {
    /// This process; None where the system does not say when it started.
    pub(super) fn own() -> Option<Self> {
        let pid = u64::from(std::process::id());
        Some(Self { pid, started: started(pid)? })
    }

    /// Whether it runs: one that has ended and was not waited for does not.
    pub(super) fn is_alive(self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// When the process of this number started, if there is one that has not ended.
fn started(pid: u64) -> Option<u64> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may have spaces and parentheses.
    let (_, fields) = line.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    if ["Z", "X"].contains(&state) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A number for the time since the machine started: what a file says of processes is void after.
pub(super) fn boot() -> u64 {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    hash(&text)
}

/// A number for the processes that see each other: those of a container.
pub(super) fn namespace() -> u64 {
    let name = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    hash(&name.to_string_lossy())
}

/// FNV-1a, which is the same in every build.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "starts a process")]
    fn a_process_is_alive_until_it_ends_waited_for_or_not() {
        assert!(Identity::own().unwrap().is_alive());
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = u64::from(child.id());
        let identity = Identity { pid, started: started(pid).unwrap() };
        assert!(identity.is_alive());
        assert!(!Identity { started: identity.started + 1, ..identity }.is_alive());
        child.kill().unwrap();
        while identity.is_alive() {}
        child.wait().unwrap();
        assert!(!identity.is_alive());
    }
}
