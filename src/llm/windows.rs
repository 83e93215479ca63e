//! The windows over which rates of tokens are shown: their names, their lengths, their limits.

use super::rates::SLOT_SECONDS;
use crate::error::{Error, Result};

/// The windows of the label `time_window`, if nobody chooses others.
pub const DEFAULT_WINDOWS: [&str; 3] = ["1m", "5m", "15m"];
/// The most windows.
pub const WINDOWS_LIMIT: usize = 8;
/// The longest window, in seconds: an hour.
pub const WINDOW_LIMIT: u64 = 3600;

/// A window's name as a label, and its length in slots of [`SLOT_SECONDS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) name: Box<str>,
    pub(super) slots: usize,
}

impl Window {
    fn parse(name: &str) -> Result<Self> {
        let unit = |unit, seconds| Some((name.strip_suffix(unit)?, seconds));
        let parts = unit('s', 1).or_else(|| unit('m', 60)).or_else(|| unit('h', 3600));
        let digits = parts.filter(|(digits, _)| digits.bytes().all(|it| it.is_ascii_digit()));
        let seconds = digits
            .and_then(|(digits, unit)| digits.parse::<u64>().ok()?.checked_mul(unit))
            .filter(|seconds| (1..=WINDOW_LIMIT).contains(seconds) && seconds % SLOT_SECONDS == 0);
        let slots = seconds.map(|seconds| (seconds / SLOT_SECONDS) as usize);
        slots.map(|slots| Self { name: name.into(), slots }).ok_or_else(|| {
            let text = format!(
                "windows has {name:?}; each must be a multiple of {SLOT_SECONDS}s, written as 30s, \
                 5m or 1h, {WINDOW_LIMIT}s at most"
            );
            Error::InvalidArgument(text)
        })
    }
}

/// The windows of these names.
///
/// # Errors
/// [`Error::InvalidArgument`] for a name that is no length within the limits, for no window or too
/// many, and for two of one length.
pub(super) fn parse_windows(names: &[impl AsRef<str>]) -> Result<Vec<Window>> {
    let count = names.len();
    if !(1..=WINDOWS_LIMIT).contains(&count) {
        let text = format!("windows has {count} of them; it must have 1 to {WINDOWS_LIMIT}");
        return Err(Error::InvalidArgument(text));
    }
    let mut windows: Vec<Window> = Vec::new();
    for name in names {
        let window = Window::parse(name.as_ref())?;
        if let Some(same) = windows.iter().find(|other| other.slots == window.slots) {
            let text = format!("windows has {:?} and {:?}: one length", same.name, window.name);
            return Err(Error::InvalidArgument(text));
        }
        windows.push(window);
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_and_limits_are_named() {
        let slots = |names: &[&str]| -> Vec<_> {
            parse_windows(names).unwrap().iter().map(|window| window.slots).collect()
        };
        assert_eq!(slots(&DEFAULT_WINDOWS), [12, 60, 180]);
        assert_eq!(slots(&["5s", "3600s", "2m"]), [1, 720, 24]);
        for bad in
            ["", "m", "0s", "7s", "-5s", "+5m", "1d", "2h", "90", "1.5m", "9".repeat(30).as_str()]
        {
            let error = parse_windows(&[bad]).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")) && error.contains("3600s"), "{error}");
        }
        assert!(parse_windows(&["60s", "1m"]).is_err());
        assert!(parse_windows(&[""; 0]).is_err());
        let many: Vec<_> = (1..=9).map(|count| format!("{count}m")).collect();
        let error = parse_windows(&many).unwrap_err().to_string();
        assert_eq!(error, "windows has 9 of them; it must have 1 to 8");
    }
}
