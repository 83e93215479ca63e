//! Gives up a step that llama.cpp computes.
//!
//! llama.cpp asks a callback before each node of its graph whether to go on, and forgets the rows of a
//! step that it gave up. Its wrapper has no access to that callback, so it is written into the
//! parameters' memory here, for which unsafe is allowed. Must not know: who wants to halt, and why.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_sys_2::llama_context_params;

// The wrapper's parameters are llama.cpp's and nothing else, so both begin at the same place.
const _: () = assert!(size_of::<LlamaContextParams>() == size_of::<llama_context_params>());
const _: () = assert!(align_of::<LlamaContextParams>() == align_of::<llama_context_params>());

/// What contexts ask while they compute. Has its own place on the heap, and must outlive them.
#[derive(Debug, Default)]
pub(super) struct Halt(Box<AtomicPtr<AtomicBool>>);

impl Halt {
    /// The parameters of a context that asks this.
    pub(super) fn heeded_by(&self, mut params: LlamaContextParams) -> LlamaContextParams {
        let raw = ptr::from_mut(&mut params).cast::<llama_context_params>();
        // SAFETY: the wrapper holds one field of that type, and sizes are equal, so it is there.
        let raw = unsafe { &mut *raw };
        raw.abort_callback = Some(is_set);
        raw.abort_callback_data = ptr::from_ref(&*self.0).cast_mut().cast();
        params
    }

    /// Contexts give up while `flag` is set, as long as `body` runs.
    pub(super) fn during<T>(&self, flag: &AtomicBool, body: impl FnOnce() -> T) -> T {
        struct Reset<'halt>(&'halt AtomicPtr<AtomicBool>);
        impl Drop for Reset<'_> {
            fn drop(&mut self) {
                self.0.store(ptr::null_mut(), Ordering::Release);
            }
        }
        self.0.store(ptr::from_ref(flag).cast_mut(), Ordering::Release);
        let _reset = Reset(&self.0);
        body()
    }
}

unsafe extern "C" fn is_set(halt: *mut c_void) -> bool {
    // SAFETY: it is what `heeded_by` has set, which outlives the context; and what that points to
    // lives as long as `during` runs, which computes no longer after it.
    unsafe {
        let flag = (*halt.cast::<AtomicPtr<AtomicBool>>()).load(Ordering::Acquire);
        flag.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written lies where the wrapper reads, and the rest stays as it was.
    #[test]
    fn callback_is_in_the_wrappers_parameters() {
        let halt = Halt::default();
        let mut params = halt.heeded_by(LlamaContextParams::default().with_n_threads(3));
        assert_eq!(params.n_threads(), 3);
        let raw = ptr::from_mut(&mut params).cast::<llama_context_params>();
        // SAFETY: as in `heeded_by`.
        let raw = unsafe { &mut *raw };
        assert_eq!(raw.n_threads, 3);
        raw.n_threads = 5;
        assert_eq!(params.n_threads(), 5);
    }

    #[test]
    fn only_during_a_step_and_only_while_the_flag_is_set() {
        let halt = Halt::default();
        // SAFETY: the pointer that `heeded_by` hands to llama.cpp.
        let asked = || unsafe { is_set(ptr::from_ref(&*halt.0).cast_mut().cast()) };
        let flag = AtomicBool::new(true);
        assert!(!asked());
        assert!(halt.during(&flag, asked));
        flag.store(false, Ordering::Relaxed);
        assert!(!halt.during(&flag, asked) && !asked());
    }
}
