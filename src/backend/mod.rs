//! What the engine needs from a model, and the two that provide it: [`toy`] (scripted, no
//! download) and `llama` (llama.cpp).
//!
//! A context borrows its model, so a [`Decoder`] lives on the stack of the thread that runs it:
//! [`Model::run`] makes one and lends it. Must not know: requests, scheduling, sampling.

use std::any::Any;
use std::collections::HashSet;
use std::fmt::Debug;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use crate::clock::{Clock, seconds_between};
use crate::error::{Error, Result};
use crate::event::{Event, Observer};

#[cfg(feature = "llama")]
pub mod llama;
mod stage;
pub mod toy;

pub use self::stage::{Candidate, Dry, Mirostat, Stage, StageSpec};

/// A token's number in the vocabulary.
pub type Token = i32;

/// The number of a sequence within a decoder, from 0 to [`DecoderConfig::sequences`] − 1.
pub type SeqId = u32;

/// What a model says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The model's name as its file gives it, else the file's own name.
    pub name: String,
    /// The family of its architecture, such as `llama`.
    pub architecture: String,
    /// Tokens of context that it was trained on; no sequence may be longer.
    pub context_train: usize,
    /// Tokens in its vocabulary.
    pub vocab_size: usize,
    /// How many parameters it has.
    pub parameters: u64,
    /// Bytes that its tensors take.
    pub size_bytes: u64,
    /// Bytes of the KV cache that one token takes, if all take the same.
    pub kv_bytes_per_token: Option<u64>,
    /// Whether a sequence can be cut and shared at any position; a recurrent state cannot.
    pub divisible: bool,
    /// Whether a step that is under way can be given up: [`Decoder::decode_unless`].
    pub interruptible: bool,
    /// Whether a token knows only those before it. If not, a prompt must be computed as a whole.
    pub causal: bool,
    /// How its file says that vectors of tokens become one: `mean`, `last` or `cls`.
    pub pooling: Option<String>,
    /// Where it computes: `cpu`, `cuda`, `metal` or `vulkan`.
    pub device: String,
    /// The Jinja template for chats that its file carries.
    pub chat_template: Option<String>,
    /// The text of its token for the beginning of a sequence.
    pub bos_text: Option<String>,
    /// The text of its token for the end of a sequence.
    pub eos_text: Option<String>,
    /// The names of the adapters that were loaded with it.
    pub adapters: Vec<Arc<str>>,
}

impl ModelInfo {
    /// The number of an adapter, from 1; 0 for none.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] with the known ones if there is no such adapter.
    pub fn adapter(&self, name: Option<&str>) -> Result<usize> {
        let Some(name) = name else { return Ok(0) };
        let index = self.adapters.iter().position(|adapter| &**adapter == name);
        index.map(|index| index + 1).ok_or_else(|| {
            let known = if self.adapters.is_empty() { "none" } else { &self.adapters.join(", ") };
            Error::InvalidArgument(format!("adapter is {name:?}; the model has: {known}"))
        })
    }
}

/// The most adapters of a model: each has a turn of its own in the steps.
pub const MAX_ADAPTERS: usize = 64;

/// The largest [`Adapter::scale`], in either direction.
pub const MAX_ADAPTER_SCALE: f32 = 100.0;

/// A LoRA adapter: small weights that change what a model answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// What requests call it.
    pub name: Arc<str>,
    /// Its GGUF file. The toy reads none.
    pub path: PathBuf,
    /// How much of it is added to the model's weights: 1 is as it was trained, 0 is nothing. One
    /// file may have several names with a scale each. The toy knows none.
    pub scale: f32,
}

/// The size of a decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoderConfig {
    /// KV cells of all sequences together; a cell holds one token.
    pub cells: usize,
    /// Whether all sequences share them. Otherwise each has an equal part for itself.
    pub unified: bool,
    /// Sequences at once.
    pub sequences: usize,
    /// The most rows in one [`Decoder::decode`].
    pub batch_size: usize,
    /// Threads that compute.
    pub threads: usize,
    /// Whether it is made for [`Decoder::embedding`]. It then computes the logits of all rows too.
    pub embeddings: bool,
}

/// One token to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The token.
    pub token: Token,
    /// Its place in its sequence, from 0, without gaps.
    pub position: usize,
    /// The sequence.
    pub seq: SeqId,
    /// Whether the logits after it will be read; only a sequence's last row in a batch may ask.
    pub wants_logits: bool,
}

/// Why a batch was not computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeFailure {
    /// No KV cells are left. Nothing was written: the sequences are as before.
    NoSpace,
    /// The computation was broken off. Nothing was written.
    Aborted,
    /// Anything else. Some rows may have been written: forget the sequences of the batch.
    Fatal(String),
}

/// A loaded model. Its methods may be called from any thread.
pub trait Model: Debug + Send + Sync {
    /// What it says about itself.
    fn info(&self) -> &ModelInfo;

    /// Turns text into tokens. `add_special` adds what the model wants at both ends, and never a
    /// second beginning; `parse_special` reads the names of control tokens as these tokens.
    fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Token>>;

    /// The bytes of a token, which may be a part of a character. Control tokens have none.
    fn piece(&self, token: Token) -> Vec<u8>;

    /// The text of these tokens; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a token that is not in the vocabulary.
    fn text(&self, tokens: &[Token]) -> Result<String> {
        let known = 0..self.info().vocab_size as Token;
        if let Some(token) = tokens.iter().find(|token| !known.contains(token)) {
            return Err(Error::InvalidArgument(format!(
                "the tokens hold {token}; a token must be from 0 to {}",
                known.end - 1
            )));
        }
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.piece(token)).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether this token ends an answer.
    fn is_end(&self, token: Token) -> bool;

    /// The beginning of a step of drawing tokens for one answer.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the model cannot do it, with the reason.
    fn stage(&self, spec: &StageSpec) -> Result<Box<dyn Stage>> {
        let name = match spec {
            StageSpec::Grammar(_) => "a grammar",
            StageSpec::Dry(_) => "DRY",
            StageSpec::Mirostat(..) => "mirostat",
        };
        let model = &self.info().name;
        Err(Error::InvalidArgument(format!("the model {model} cannot use {name}")))
    }

    /// Makes a decoder on this thread and lends it to `body`, once.
    fn run(&self, config: &DecoderConfig, body: &mut dyn FnMut(&mut dyn Decoder)) -> Result<()>;
}

/// A model's working memory: computes tokens and remembers them by sequence.
pub trait Decoder {
    /// From now on computes with this adapter: 0 is the bare model, then those of
    /// [`ModelInfo::adapters`]. What was computed with another is no use to it. Costs nothing if
    /// it is the same as before.
    fn adapt(&mut self, adapter: usize) -> std::result::Result<(), DecodeFailure> {
        match adapter {
            0 => Ok(()),
            _ => Err(DecodeFailure::Fatal("this decoder has no adapters".to_owned())),
        }
    }

    /// Computes the rows, at most [`DecoderConfig::batch_size`] of them.
    fn decode(&mut self, rows: &[Row]) -> std::result::Result<(), DecodeFailure>;

    /// The same, but gives up soon after `halt` is set, with [`DecodeFailure::Aborted`], and
    /// remembers nothing of the rows then. Only for a model that is
    /// [interruptible](ModelInfo::interruptible).
    fn decode_unless(
        &mut self,
        rows: &[Row],
        _halt: &AtomicBool,
    ) -> std::result::Result<(), DecodeFailure> {
        self.decode(rows)
    }

    /// The logits after a row of the last batch, one per token of the vocabulary.
    ///
    /// # Panics
    ///
    /// If that row did not ask for them.
    fn logits(&self, row: usize) -> &[f32];

    /// What the model's last layer made of a row of the last batch; none if the decoder is not made
    /// for [`DecoderConfig::embeddings`].
    fn embedding(&self, _row: usize) -> Option<&[f32]> {
        None
    }

    /// Frees all cells of a sequence.
    fn forget(&mut self, seq: SeqId);

    /// Frees the cells of a sequence from this position on. Only for a divisible model, as is
    /// [`Self::share`].
    fn truncate(&mut self, seq: SeqId, length: usize);

    /// Lets `to` use the cells of `from` at these positions; its own there are freed. Copies
    /// nothing if the cells are [unified](DecoderConfig::unified). Otherwise it copies all of them,
    /// so the positions begin at 0, and `to` has nothing else then. False if it cannot: then `to` is
    /// empty.
    fn share(&mut self, from: SeqId, to: SeqId, positions: Range<usize>) -> bool;

    /// Copies what it remembers of a sequence into the host's memory; none if it cannot.
    fn save(&mut self, seq: SeqId) -> Option<Snapshot>;

    /// Makes an empty sequence what another was when it was saved. If it cannot, the sequence
    /// stays empty, and the answer is false.
    fn restore(&mut self, seq: SeqId, snapshot: &Snapshot) -> bool;
}

/// A sequence's part of a decoder's memory. Only the decoder that made it can read it.
///
/// ```
/// use ryot_metrics::backend::{Model, Row, toy::Toy};
/// use ryot_metrics::engine::EngineConfig;
/// Toy::instant().run(&EngineConfig::default().decoder(), &mut |decoder| {
///     let rows = [Row { token: 7, position: 0, seq: 0, wants_logits: true }];
///     decoder.decode(&rows).unwrap();
///     let snapshot = decoder.save(0).unwrap();
///     assert!(snapshot.bytes > 0 && decoder.restore(1, &snapshot));
/// })?;
/// # Ok::<(), ryot_metrics::error::Error>(())
/// ```
#[derive(Debug)]
pub struct Snapshot {
    /// Bytes that it takes.
    pub bytes: u64,
    /// What the decoder wrote.
    pub content: Box<dyn Any + Send>,
}

/// Loads a model: `toy` is [`toy::Toy`], anything else the path of a GGUF file. `gpu_layers` says
/// how many layers to place on a GPU; default: all if this build has a GPU backend, else none.
/// `adapters`: LoRA adapters that requests can name, at most [`MAX_ADAPTERS`]. Tells the observer
/// how long it took.
///
/// # Errors
///
/// [`Error::ModelNotFound`] or [`Error::ModelLoad`], also for an adapter; [`Error::InvalidArgument`]
/// for a path if this build lacks llama.cpp, and for adapters without names of their own.
pub fn load(
    model: &str,
    gpu_layers: Option<u32>,
    adapters: &[Adapter],
    observer: &dyn Observer,
    clock: &dyn Clock,
) -> Result<Arc<dyn Model>> {
    static LOADED: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    check_adapters(adapters)?;
    let since = clock.now();
    let loaded: Result<Arc<dyn Model>> = match model {
        "toy" => Ok(Arc::new(toy::Toy::with_adapters(adapters))),
        path => load_file(Path::new(path), gpu_layers, adapters),
    };
    let new = loaded.is_ok() && LOADED.lock().get_or_insert_default().insert(model.to_owned());
    observer.observe(&Event::ModelLoaded {
        seconds: seconds_between(since, clock.now()),
        error: loaded.as_ref().err().map(Error::kind),
        again: loaded.is_ok() && !new,
    });
    loaded
}

fn check_adapters(adapters: &[Adapter]) -> Result<()> {
    if adapters.len() > MAX_ADAPTERS {
        let count = adapters.len();
        return Err(Error::InvalidArgument(format!(
            "there are {count} adapters; there must be at most {MAX_ADAPTERS}"
        )));
    }
    for (index, Adapter { name, scale, .. }) in adapters.iter().enumerate() {
        if !(-MAX_ADAPTER_SCALE..=MAX_ADAPTER_SCALE).contains(scale) {
            return Err(Error::InvalidArgument(format!(
                "the scale of the adapter {name:?} is {scale}; it must be from \
                 -{MAX_ADAPTER_SCALE} to {MAX_ADAPTER_SCALE}"
            )));
        }
        if name.is_empty() || adapters[..index].iter().any(|other| other.name == *name) {
            return Err(Error::InvalidArgument(format!(
                "adapter {index} is named {name:?}; each needs a name of its own"
            )));
        }
    }
    Ok(())
}

#[cfg(feature = "llama")]
fn load_file(path: &Path, gpu_layers: Option<u32>, adapters: &[Adapter]) -> Result<Arc<dyn Model>> {
    Ok(Arc::new(llama::Llama::load(path, gpu_layers, adapters)?))
}

#[cfg(not(feature = "llama"))]
fn load_file(path: &Path, _gpu_layers: Option<u32>, _: &[Adapter]) -> Result<Arc<dyn Model>> {
    Err(Error::InvalidArgument(format!(
        "cannot load {}: this build lacks llama.cpp; its only model is 'toy'",
        path.display()
    )))
}
