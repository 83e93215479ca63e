//! What llama.cpp remembers of a sequence, copied into pages of its own.
//!
//! A copy is megabytes, and no two are of one size. On the heap, llama.cpp's wrapper puts it between
//! everything else, and what freed copies leave there is lost to the system; pages go back when
//! they are dropped. Unsafe is allowed here, since the wrapper writes into memory of the caller's only
//! that way. Must not know: which sequences are copied, and why.
#![allow(unsafe_code)]

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::LlamaStateSeqFlags;
use memmap2::{Mmap, MmapMut};

/// A sequence's state; nothing but [`State::copy`] makes one.
#[derive(Debug)]
pub(super) struct State(Mmap);

impl State {
    /// Copies a sequence; none if the system has no memory for it, or llama.cpp cannot.
    pub(super) fn copy(context: &LlamaContext<'_>, seq: i32) -> Option<Self> {
        let all = LlamaStateSeqFlags::empty();
        let mut pages = MmapMut::map_anon(context.state_seq_get_size_ext(seq, all)).ok()?;
        // SAFETY: llama.cpp finds out the size by the same walk as it writes, and nothing computes
        // between both, so it writes what was mapped.
        let written = unsafe { context.state_seq_get_data_ext(pages.as_mut_ptr(), seq, all) };
        (written == pages.len()).then(|| pages.make_read_only().ok().map(Self))?
    }

    /// Makes an empty sequence what the copied one was; false if llama.cpp refuses.
    pub(super) fn restore(&self, context: &mut LlamaContext<'_>, seq: i32) -> bool {
        // SAFETY: llama.cpp wrote these bytes itself, and nobody can have changed them since.
        unsafe { context.state_seq_set_data_ext(&self.0, seq, LlamaStateSeqFlags::empty()) }
    }

    /// Bytes that it takes.
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }
}
