//! The frame of the running code, as `sys._getframe` has it, without that call's audit event: every
//! block of a request asks. Must not know: requests.

#![allow(unsafe_code)]

use pyo3::ffi::{PyFrame_GetCode, PyThreadState_Get, PyThreadState_GetFrame};
use pyo3::intern;
use pyo3::prelude::*;

/// The frame of the running code, or of its caller at this depth, and its code; none if there is no
/// such frame.
pub(super) fn running(
    py: Python<'_>,
    depth: u32,
) -> PyResult<Option<(Bound<'_, PyAny>, Bound<'_, PyAny>)>> {
    // SAFETY: the thread is attached, so it has a state; the reference is new, or null.
    let frame = unsafe {
        let frame = PyThreadState_GetFrame(PyThreadState_Get());
        Bound::from_owned_ptr_or_opt(py, frame.cast())
    };
    let Some(mut frame) = frame else { return Ok(None) };
    for _ in 0..depth {
        frame = frame.getattr(intern!(py, "f_back"))?;
        if frame.is_none() {
            return Ok(None);
        }
    }
    // SAFETY: it is a frame, and each has a code; the reference is new.
    let code = unsafe { Bound::from_owned_ptr(py, PyFrame_GetCode(frame.as_ptr().cast()).cast()) };
    Ok(Some((frame, code)))
}
