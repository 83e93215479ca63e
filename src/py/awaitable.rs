//! What Python awaits in the place of another awaitable, with something done around it.
//!
//! Native, because every token of every stream goes through one, and not a class of pyo3's, because
//! those lack the slot `am_send`, which gives a result without the exception that carries it
//! elsewhere. Must not know: requests.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::ffi::{self, PyObject, PySendResult};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

// Not of the limited API, but public, and the same in every CPython since 3.7.
unsafe extern "C" {
    fn PyContext_CopyCurrent() -> *mut PyObject;
    fn PyContext_Enter(context: *mut PyObject) -> c_int;
    fn PyContext_Exit(context: *mut PyObject) -> c_int;
}

/// What is done around an awaitable. Each of the first five is called at most once, and in the order
/// in which they stand here: one of the last three of them is the end, and there is none after an
/// error of `begins`. What is closed before it begins is asked for what is awaited alone.
pub(super) trait Around: Sized + 'static {
    /// The class's name, for Python.
    const NAME: &'static CStr;

    /// Where the class is kept.
    fn class() -> &'static Class;

    /// It is awaited: the context that all steps run in, if it is not the caller's.
    fn begins<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>>;

    /// What is awaited then; called in that context.
    fn awaited<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>>;

    /// It has this result.
    fn returned(&self, result: &Bound<'_, PyAny>);

    /// It failed.
    fn failed(&self, error: &Bound<'_, PyAny>);

    /// It is closed, and will have no result.
    fn closed(&self, py: Python<'_>);

    /// The objects that it owns.
    fn owns(&self) -> [Option<&Py<PyAny>>; 2];

    /// The same, for the end.
    fn into_owned(self) -> [Option<Py<PyAny>>; 2];
}

/// A class of awaitables.
pub(super) struct Class {
    class: PyOnceLock<Py<PyType>>,
    /// The memory of an object that is no more, or null: most often there is one awaitable at a
    /// time. Written while the interpreter's lock is held.
    spare: AtomicPtr<PyObject>,
}

impl Class {
    pub(super) const fn new() -> Self {
        Self { class: PyOnceLock::new(), spare: AtomicPtr::new(null_mut()) }
    }
}

#[repr(C)]
struct Object<A> {
    head: PyObject,
    /// An owned reference, or null: before the beginning, and after the end.
    inner: Cell<*mut PyObject>,
    /// The same, and null where there is no context.
    context: Cell<*mut PyObject>,
    phase: Cell<Phase>,
    around: ManuallyDrop<A>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Begun,
    Running,
    Over,
}

/// What a step gave.
enum Gave<'py> {
    /// Something for the event loop.
    Yield(Bound<'py, PyAny>),
    Result(Bound<'py, PyAny>),
}

/// An awaitable of `around`.
pub(super) fn new<A: Around>(py: Python<'_>, around: A) -> PyResult<Bound<'_, PyAny>> {
    let Class { class, spare } = A::class();
    let class = class.get_or_try_init(py, || class_of::<A>(py))?.as_ptr().cast();
    // SAFETY: the class is that of `Object<A>`, as is the memory of its spare object. The fields are
    // written before anyone sees it: nothing in between runs the collector.
    unsafe {
        let kept = spare.load(Relaxed);
        let object = if kept.is_null() {
            ffi::PyType_GenericAlloc(class, 0)
        } else {
            spare.store(null_mut(), Relaxed);
            let object = ffi::PyObject_Init(kept, class);
            ffi::PyObject_GC_Track(object.cast());
            object
        };
        let object = Bound::from_owned_ptr_or_err(py, object)?;
        let fields = object.as_ptr().cast::<Object<A>>();
        (&raw mut (*fields).inner).write(Cell::new(null_mut()));
        (&raw mut (*fields).context).write(Cell::new(null_mut()));
        (&raw mut (*fields).phase).write(Cell::new(Phase::New));
        (&raw mut (*fields).around).write(ManuallyDrop::new(around));
        Ok(object)
    }
}

/// A copy of the running context.
pub(super) fn copied_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the thread is attached; the reference is new, or null with an error.
    unsafe { Bound::from_owned_ptr_or_err(py, PyContext_CopyCurrent()) }
}

/// Runs `work` in a context of Python's.
///
/// # Errors
/// Those of `work`; `RuntimeError` if the context is entered already.
pub(super) fn in_context<R>(
    context: &Bound<'_, PyAny>,
    work: impl FnOnce() -> PyResult<R>,
) -> PyResult<R> {
    let py = context.py();
    // SAFETY: it is a context, and left again.
    if unsafe { PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    let done = work();
    // SAFETY: it was entered above.
    if unsafe { PyContext_Exit(context.as_ptr()) } != 0 {
        return done.and(Err(PyErr::fetch(py)));
    }
    done
}

/// What `anext` gives for an async iterator, without a look at its attributes.
pub(super) fn next_of<'py>(stream: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    type Next = unsafe extern "C" fn(*mut PyObject) -> *mut PyObject;
    let py = stream.py();
    // SAFETY: what is in the slot of a class is such a function, or null; its result is new, or
    // null with an error.
    unsafe {
        let slot = ffi::PyType_GetSlot(ffi::Py_TYPE(stream.as_ptr()), ffi::Py_am_anext);
        match std::mem::transmute::<*mut c_void, Option<Next>>(slot) {
            Some(next) => Bound::from_owned_ptr_or_err(py, next(stream.as_ptr())),
            None => stream.call_method0(intern!(py, "__anext__")),
        }
    }
}

/// The iterator that `await` would ask, as far as it differs from its object.
fn iterator_of(awaitable: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    static COROUTINE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = awaitable.py();
    let coroutine = COROUTINE.import(py, "types", "CoroutineType")?;
    if awaitable.get_type_ptr().cast() == coroutine.as_ptr() {
        return Ok(awaitable);
    }
    // SAFETY: it is an object.
    if unsafe { ffi::PyIter_Check(awaitable.as_ptr()) } != 0 {
        return Ok(awaitable);
    }
    awaitable.call_method0(intern!(py, "__await__"))
}

impl<A: Around> Object<A> {
    /// The fields of an object that Python handed to a function of its class.
    ///
    /// # Safety
    /// It must be an object of that class, and live for `'a`.
    unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: as above.
        unsafe { &*object.cast::<Self>() }
    }

    /// Begins before the first step. A step that runs keeps others off, and with them what it
    /// refers to alive.
    fn begin(&self, py: Python<'_>) -> PyResult<()> {
        match self.phase.replace(Phase::Running) {
            Phase::New => match self.around.begins(py) {
                Ok(context) => self.context.set(context.map_or(null_mut(), Bound::into_ptr)),
                Err(error) => {
                    self.phase.set(Phase::Over);
                    return Err(error);
                }
            },
            Phase::Begun => {}
            Phase::Running => return Err(running()),
            Phase::Over => {
                self.phase.set(Phase::Over);
                return Err(PyRuntimeError::new_err("cannot await the same step again"));
            }
        }
        Ok(())
    }

    /// Does something with what is awaited, in its context, while it is running.
    fn within<'py, R>(
        &self,
        py: Python<'py>,
        work: impl FnOnce(Borrowed<'_, 'py, PyAny>) -> PyResult<R>,
    ) -> PyResult<R> {
        let work = || {
            if self.inner.get().is_null() {
                self.inner.set(iterator_of(self.around.awaited(py)?)?.into_ptr());
            }
            // SAFETY: the cell owns an object, and lets go of none that is running.
            work(unsafe { Borrowed::from_ptr(py, self.inner.get()) })
        };
        // SAFETY: the same, or null.
        match unsafe { Borrowed::from_ptr_or_opt(py, self.context.get()) } {
            Some(context) => in_context(&context, work),
            None => work(),
        }
    }

    /// One step.
    fn step<'py>(
        &self,
        py: Python<'py>,
        step: impl FnOnce(Borrowed<'_, 'py, PyAny>) -> PyResult<Gave<'py>>,
    ) -> PyResult<Gave<'py>> {
        self.begin(py)?;
        let gave = self.within(py, step);
        if let Ok(Gave::Yield(_)) = gave {
            self.phase.set(Phase::Begun);
            return gave;
        }
        self.phase.set(Phase::Over);
        self.let_go(py);
        match &gave {
            Ok(Gave::Result(result) | Gave::Yield(result)) => self.around.returned(result),
            Err(error) => self.around.failed(error.value(py)),
        }
        gave
    }

    fn let_go(&self, py: Python<'_>) {
        for reference in [&self.inner, &self.context] {
            if let Some(pointer) = NonNull::new(reference.replace(null_mut())) {
                // SAFETY: it was owned.
                drop(unsafe { Bound::from_owned_ptr(py, pointer.as_ptr()) });
            }
        }
    }
}

fn running() -> PyErr {
    PyRuntimeError::new_err("the step is running already")
}

// What Python calls. Each is attached, and is given an object of its class; none may unwind.

unsafe extern "C" fn send<A: Around>(
    object: *mut PyObject,
    value: *mut PyObject,
    result: *mut *mut PyObject,
) -> PySendResult {
    // SAFETY: Python keeps all three alive for the call.
    let (py, this) = unsafe { (Python::assume_attached(), Object::<A>::of(object)) };
    let gave = this.step(py, |inner| {
        let mut given = null_mut();
        // SAFETY: all are objects; what is given is owned then.
        unsafe {
            match ffi::PyIter_Send(inner.as_ptr(), value, &raw mut given) {
                PySendResult::PYGEN_NEXT => Ok(Gave::Yield(Bound::from_owned_ptr(py, given))),
                PySendResult::PYGEN_RETURN => Ok(Gave::Result(Bound::from_owned_ptr(py, given))),
                PySendResult::PYGEN_ERROR => Err(PyErr::fetch(py)),
            }
        }
    });
    let (kind, given) = match gave {
        Ok(Gave::Yield(given)) => (PySendResult::PYGEN_NEXT, given.into_ptr()),
        Ok(Gave::Result(given)) => (PySendResult::PYGEN_RETURN, given.into_ptr()),
        Err(error) => {
            error.restore(py);
            (PySendResult::PYGEN_ERROR, null_mut())
        }
    };
    // SAFETY: it is where the caller wants it.
    unsafe { result.write(given) };
    kind
}

/// What a step gave, as iterators say it.
fn told(gave: PyResult<Gave<'_>>) -> PyResult<Bound<'_, PyAny>> {
    match gave? {
        Gave::Yield(value) => Ok(value),
        Gave::Result(value) => {
            // Made here: a tuple or an exception would be taken for its arguments, or for itself.
            let stop = value.py().get_type::<PyStopIteration>().call1((value,))?;
            Err(PyErr::from_value(stop))
        }
    }
}

fn pointer_of(py: Python<'_>, told: PyResult<Bound<'_, PyAny>>) -> *mut PyObject {
    told.map_or_else(
        |error| {
            error.restore(py);
            null_mut()
        },
        Bound::into_ptr,
    )
}

unsafe extern "C" fn next<A: Around>(object: *mut PyObject) -> *mut PyObject {
    // SAFETY: None is an object for ever.
    unsafe { sent::<A>(object, ffi::Py_None()) }
}

unsafe extern "C" fn sent<A: Around>(object: *mut PyObject, value: *mut PyObject) -> *mut PyObject {
    let mut given = null_mut();
    // SAFETY: as of `send`; what is given is owned then.
    unsafe {
        let py = Python::assume_attached();
        let gave = match send::<A>(object, value, &raw mut given) {
            PySendResult::PYGEN_NEXT => Ok(Gave::Yield(Bound::from_owned_ptr(py, given))),
            PySendResult::PYGEN_RETURN => Ok(Gave::Result(Bound::from_owned_ptr(py, given))),
            PySendResult::PYGEN_ERROR => Err(PyErr::fetch(py)),
        };
        pointer_of(py, told(gave))
    }
}

/// `throw(error)`, or `throw(type, value, traceback)`, as generators have it.
unsafe extern "C" fn throw<A: Around>(
    object: *mut PyObject,
    arguments: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: Python keeps both alive; these arguments are a tuple.
    let (py, this, arguments) = unsafe {
        let py = Python::assume_attached();
        let arguments = Bound::from_borrowed_ptr(py, arguments).cast_into_unchecked::<PyTuple>();
        (py, Object::<A>::of(object), arguments)
    };
    let gave = this.step(py, |inner| {
        let thrown = inner.getattr(intern!(py, "throw")).and_then(|throw| throw.call1(arguments));
        match thrown {
            Ok(value) => Ok(Gave::Yield(value)),
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                Ok(Gave::Result(error.value(py).getattr(intern!(py, "value"))?))
            }
            Err(error) => Err(error),
        }
    });
    pointer_of(py, told(gave))
}

unsafe extern "C" fn close<A: Around>(
    object: *mut PyObject,
    _arguments: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: Python keeps it alive.
    let (py, this) = unsafe { (Python::assume_attached(), Object::<A>::of(object)) };
    let close = || this.within(py, |inner| inner.call_method0(intern!(py, "close")).map(drop));
    let closed = match this.phase.replace(Phase::Running) {
        // What is closed before it begins may end what it is a step of: since 3.13 it does.
        Phase::New => close(),
        Phase::Begun => {
            let closed = close();
            this.around.closed(py);
            closed
        }
        Phase::Running => return pointer_of(py, Err(running())),
        Phase::Over => Ok(()),
    };
    this.phase.set(Phase::Over);
    this.let_go(py);
    pointer_of(py, closed.map(|()| py.None().into_bound(py)))
}

unsafe extern "C" fn itself(object: *mut PyObject) -> *mut PyObject {
    // SAFETY: it is an object.
    unsafe { ffi::Py_NewRef(object) }
}

unsafe extern "C" fn traverse<A: Around>(
    object: *mut PyObject,
    visit: ffi::visitproc,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the collector hands over an object of the class, and a function for references.
    unsafe {
        let this = Object::<A>::of(object);
        let [one, other] = this.around.owns().map(|it| it.map_or(null_mut(), Py::as_ptr));
        let own = [this.inner.get(), this.context.get(), ffi::Py_TYPE(object).cast()];
        let found = own.into_iter().chain([one, other]).filter(|reference| !reference.is_null());
        found.map(|reference| visit(reference, argument)).find(|answer| *answer != 0).unwrap_or(0)
    }
}

unsafe extern "C" fn dealloc<A: Around>(object: *mut PyObject) {
    // SAFETY: nobody refers to the object any more; its class is one of the heap, and is referred
    // to by each of its objects.
    unsafe {
        let (py, class) = (Python::assume_attached(), ffi::Py_TYPE(object));
        ffi::PyObject_GC_UnTrack(object.cast());
        let this = &mut *object.cast::<Object<A>>();
        this.let_go(py);
        for object in ManuallyDrop::take(&mut this.around).into_owned().into_iter().flatten() {
            drop(object.into_bound(py));
        }
        let spare = &A::class().spare;
        if spare.load(Relaxed).is_null() {
            spare.store(object, Relaxed);
        } else {
            ffi::PyObject_GC_Del(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}

fn class_of<A: Around>(py: Python<'_>) -> PyResult<Py<PyType>> {
    type Method = unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> *mut PyObject;
    let method = |name: &'static CStr, call: Method, flags| ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: call },
        ml_flags: flags,
        ml_doc: std::ptr::null(),
    };
    // Python refers to them for as long as the class lives, which is for ever.
    let methods = Box::leak(Box::new([
        method(c"send", sent::<A>, ffi::METH_O),
        method(c"throw", throw::<A>, ffi::METH_VARARGS),
        method(c"close", close::<A>, ffi::METH_NOARGS),
        ffi::PyMethodDef::zeroed(),
    ]));
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(ffi::Py_am_await, itself as *mut c_void),
        slot(ffi::Py_am_send, send::<A> as *mut c_void),
        slot(ffi::Py_tp_iter, itself as *mut c_void),
        slot(ffi::Py_tp_iternext, next::<A> as *mut c_void),
        slot(ffi::Py_tp_methods, methods.as_mut_ptr().cast()),
        slot(ffi::Py_tp_traverse, traverse::<A> as *mut c_void),
        slot(ffi::Py_tp_dealloc, dealloc::<A> as *mut c_void),
        slot(0, null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: A::NAME.as_ptr(),
        basicsize: size_of::<Object<A>>() as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT
            | ffi::Py_TPFLAGS_HAVE_GC
            | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION) as c_uint,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the functions are those of the slots, and the size is that of the objects.
    let class = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec)) }?;
    Ok(class.cast_into::<PyType>()?.unbind())
}
