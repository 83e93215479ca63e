//! llama.cpp as a backend. Only this file and those below it name `llama_cpp_2`.
//!
//! What llama.cpp punishes with an abort or with undefined behaviour is refused here before it
//! gets there: a batch larger than `n_batch`, an unknown token, a row in several sequences, two
//! contexts made at once. Must not know: requests, scheduling, sampling.

mod halt;
mod processor;
mod stage;
mod state;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{
    DecodeError, LlamaBackendDevice, LlamaBackendDeviceType, LlamaContextLoadError,
    list_llama_ggml_backend_devices,
};
use parking_lot::Mutex;

use self::halt::Halt;
use self::stage::LlamaStage;
use self::state::State;
use crate::backend::{
    Adapter, DecodeFailure, Decoder, DecoderConfig, Model, ModelInfo, Row, SeqId, Snapshot, Stage,
    StageSpec, Token,
};
use crate::error::{Error, Result};
use crate::gpu::{Probe, Reading};

/// "All layers", whatever their number.
const ALL_LAYERS: u32 = i32::MAX as u32;

/// Making a context changes its model, so two at once are undefined behaviour.
static MAKING_CONTEXT: Mutex<()> = Mutex::new(());

/// A GGUF model, loaded.
#[derive(Debug)]
pub struct Llama {
    model: Arc<LlamaModel>,
    /// With the scale of each. Freed with the model. llama.cpp changes none of them, but its
    /// wrapper wants to.
    adapters: Mutex<Vec<(LlamaLoraAdapter, f32)>>,
    info: ModelInfo,
}

impl Llama {
    /// Loads a GGUF file. `gpu_layers`: how many layers to place on a GPU; default: all if this
    /// build has a GPU backend, else none. `adapters`: LoRA adapters for it.
    ///
    /// # Errors
    ///
    /// [`Error::ModelNotFound`], or [`Error::ModelLoad`] with the reason.
    pub fn load(path: &Path, gpu_layers: Option<u32>, adapters: &[Adapter]) -> Result<Self> {
        check_file(path)?;
        check_processor(path)?;
        let layers = gpu_layers.unwrap_or(if gpu().is_some() { ALL_LAYERS } else { 0 });
        let params = LlamaModelParams::default().with_n_gpu_layers(layers);
        let refused = |_| Error::ModelLoad {
            path: path.to_owned(),
            reason: "llama.cpp refuses it: the file is damaged or cut off, or its architecture \
                     is not known"
                .to_owned(),
        };
        let mut model = LlamaModel::load_from_file(backend(), path, &params).map_err(refused)?;
        let device = gpu().filter(|_| layers > 0).unwrap_or_else(|| "cpu".to_owned());
        // llama.cpp wants all of them before the first context.
        let loaded = adapters
            .iter()
            .map(|adapter| load_adapter(&mut model, adapter).map(|loaded| (loaded, adapter.scale)));
        let loaded = loaded.collect::<Result<Vec<_>>>()?;
        let mut info = describe(&model, path, device);
        info.adapters = adapters.iter().map(|adapter| Arc::clone(&adapter.name)).collect();
        Ok(Self { info, model: Arc::new(model), adapters: Mutex::new(loaded) })
    }
}

impl Model for Llama {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Token>> {
        if i32::try_from(text.len()).is_err() {
            return Err(Error::InvalidArgument(format!(
                "the prompt has {} bytes; it must have at most {}",
                text.len(),
                i32::MAX
            )));
        }
        let vocab = self.model.vocab();
        let tokens = vocab.tokenize(text.as_bytes(), add_special, parse_special);
        // A rendered chat template may begin with the token that llama.cpp adds once more.
        let bos = vocab.bos();
        let doubled = add_special && vocab.should_add_bos() && tokens.starts_with(&[bos, bos]);
        Ok(tokens.iter().skip(usize::from(doubled)).map(|token| token.0).collect())
    }

    fn piece(&self, token: Token) -> Vec<u8> {
        self.model.vocab().token_to_piece(LlamaToken(token), false, None)
    }

    fn is_end(&self, token: Token) -> bool {
        self.model.vocab().is_eog(LlamaToken(token))
    }

    fn stage(&self, spec: &StageSpec) -> Result<Box<dyn Stage>> {
        Ok(Box::new(LlamaStage::new(&self.model, spec)?))
    }

    fn run(&self, config: &DecoderConfig, body: &mut dyn FnMut(&mut dyn Decoder)) -> Result<()> {
        let halt = Halt::default();
        let making = MAKING_CONTEXT.lock();
        let context = self
            .model
            .new_context(backend(), halt.heeded_by(context_params(config)))
            .map_err(|LlamaContextLoadError::NullReturn| no_context(config))?;
        drop(making);
        body(&mut LlamaDecoder {
            context,
            halt: &halt,
            batch: LlamaBatch::new(config.batch_size, 1),
            config,
            order: Vec::new(),
            places: Vec::new(),
            vocab: self.info.vocab_size,
            adapters: &self.adapters,
            adapter: 0,
        });
        Ok(())
    }
}

struct LlamaDecoder<'model> {
    context: LlamaContext<'model>,
    halt: &'model Halt,
    batch: LlamaBatch<'static>,
    config: &'model DecoderConfig,
    /// The rows in the order of the batch.
    order: Vec<usize>,
    /// The place in the batch of each row.
    places: Vec<usize>,
    vocab: usize,
    adapters: &'model Mutex<Vec<(LlamaLoraAdapter, f32)>>,
    /// The one in use, as [`Decoder::adapt`] counts.
    adapter: usize,
}

impl LlamaDecoder<'_> {
    /// Where each sequence has a part of the cells, llama.cpp computes those at once that follow
    /// each other in the batch and in number, so they are sorted.
    fn arrange(&mut self, rows: &[Row]) {
        self.order.clear();
        self.order.extend(0..rows.len());
        if !self.config.unified {
            self.order.sort_by_key(|&row| rows[row].seq);
        }
        self.places.clear();
        self.places.resize(rows.len(), 0);
        for (place, &row) in self.order.iter().enumerate() {
            self.places[row] = place;
        }
    }

    fn fill(&mut self, rows: &[Row]) -> std::result::Result<(), String> {
        self.batch.clear();
        self.arrange(rows);
        for row in self.order.iter().map(|&row| &rows[row]) {
            let known = usize::try_from(row.token).is_ok_and(|token| token < self.vocab);
            if !known || row.seq as usize >= self.config.sequences {
                return Err(format!("{row:?} is outside of vocabulary or sequences"));
            }
            // One sequence per row: the batch has room for one, and does not check.
            let (position, seq) = (row.position as i32, [row.seq as i32]);
            self.batch
                .add(
                    LlamaToken(row.token),
                    position,
                    &seq,
                    row.wants_logits || self.config.embeddings,
                )
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Forgets the rows of a batch that was broken off. llama.cpp does so for the graph that it broke
    /// off; where each sequence has a part of the cells, a batch is several, and those before stay.
    fn take_back(&mut self, rows: &[Row]) {
        if self.config.unified {
            return;
        }
        let mut last = None;
        for row in self.order.iter().map(|&row| &rows[row]) {
            if last.replace(row.seq) != Some(row.seq) {
                let start = Some(row.position as u32);
                let _ = self.context.clear_kv_cache_seq(Some(row.seq), start, None);
            }
        }
    }

    /// Makes an empty sequence a copy of these cells of another.
    fn copy(&mut self, from: SeqId, to: SeqId, length: usize) -> bool {
        // llama.cpp's own copy between parts is made at the next batch only, from what is there then.
        let copied = State::copy(&self.context, from as i32)
            .is_some_and(|state| state.restore(&mut self.context, to as i32));
        if copied {
            self.truncate(to, length);
        } else {
            self.forget(to);
        }
        copied
    }
}

impl Decoder for LlamaDecoder<'_> {
    fn adapt(&mut self, adapter: usize) -> std::result::Result<(), DecodeFailure> {
        if adapter == self.adapter {
            return Ok(());
        }
        // llama.cpp's `set` takes the place of all others; its `remove` removes all, not the given.
        let index = adapter.max(1) - 1;
        let mut adapters = self.adapters.lock();
        let Some((lora, scale)) = adapters.get_mut(index) else {
            return Err(DecodeFailure::Fatal(format!("the decoder has no adapter {adapter}")));
        };
        let refused = |error: String| DecodeFailure::Fatal(format!("adapter {adapter}: {error}"));
        if adapter == 0 {
            self.context.lora_adapter_remove(lora).map_err(|error| refused(error.to_string()))?;
        } else {
            self.context
                .lora_adapter_set(lora, *scale)
                .map_err(|error| refused(error.to_string()))?;
        }
        self.adapter = adapter;
        Ok(())
    }

    fn decode(&mut self, rows: &[Row]) -> std::result::Result<(), DecodeFailure> {
        self.fill(rows).map_err(DecodeFailure::Fatal)?;
        match self.context.decode(&mut self.batch) {
            Ok(()) => {
                self.context.synchronize(); // a GPU computes on; the step has ended when it has
                Ok(())
            }
            Err(DecodeError::NoKvCacheSlot) => Err(DecodeFailure::NoSpace),
            Err(DecodeError::Unknown(2)) => {
                self.take_back(rows);
                Err(DecodeFailure::Aborted)
            }
            Err(error) => Err(DecodeFailure::Fatal(format!("llama.cpp could not decode: {error}"))),
        }
    }

    fn decode_unless(
        &mut self,
        rows: &[Row],
        halt: &AtomicBool,
    ) -> std::result::Result<(), DecodeFailure> {
        let heeded = self.halt;
        heeded.during(halt, || self.decode(rows))
    }

    fn logits(&self, row: usize) -> &[f32] {
        self.context.get_logits_ith(self.places[row] as i32)
    }

    fn embedding(&self, row: usize) -> Option<&[f32]> {
        let made =
            self.config.embeddings.then(|| self.context.embeddings_ith(self.places[row] as i32));
        made.and_then(std::result::Result::ok)
    }

    fn forget(&mut self, seq: SeqId) {
        // Fails for sequence numbers that `fill` has refused, and for parts of recurrent states.
        let _ = self.context.clear_kv_cache_seq(Some(seq), None, None);
    }

    fn truncate(&mut self, seq: SeqId, length: usize) {
        let _ = self.context.clear_kv_cache_seq(Some(seq), Some(length as u32), None);
    }

    fn share(&mut self, from: SeqId, to: SeqId, positions: Range<usize>) -> bool {
        if !self.config.unified {
            self.forget(to);
            return self.copy(from, to, positions.end);
        }
        let (start, end) = (Some(positions.start as u32), Some(positions.end as u32));
        let _ = self.context.clear_kv_cache_seq(Some(to), start, end);
        let _ = self.context.copy_kv_cache_seq(from as i32, to as i32, start, end);
        true
    }

    fn save(&mut self, seq: SeqId) -> Option<Snapshot> {
        let state = State::copy(&self.context, seq as i32)?;
        Some(Snapshot { bytes: state.len(), content: Box::new(state) })
    }

    fn restore(&mut self, seq: SeqId, snapshot: &Snapshot) -> bool {
        let Some(state) = snapshot.content.downcast_ref::<State>() else { return false };
        let restored = state.restore(&mut self.context, seq as i32);
        if !restored {
            self.forget(seq);
        }
        restored
    }
}

/// The process's one handle to llama.cpp, silenced. For whoever uses `llama_cpp_2` beside the engine.
pub fn backend() -> &'static LlamaBackend {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    BACKEND.get_or_init(|| {
        let mut backend = LlamaBackend::init().expect("nothing else initialises it");
        backend.void_logs();
        backend
    })
}

fn load_adapter(model: &mut LlamaModel, adapter: &Adapter) -> Result<LlamaLoraAdapter> {
    check_file(&adapter.path)?;
    model.lora_adapter_init(&adapter.path).map_err(|_| Error::ModelLoad {
        path: adapter.path.clone(),
        reason: format!(
            "llama.cpp refuses it as the adapter {:?}: the file is damaged, or made for another model",
            adapter.name
        ),
    })
}

fn context_params(config: &DecoderConfig) -> LlamaContextParams {
    LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(config.cells as u32))
        .with_kv_unified(config.unified)
        .with_n_seq_max(config.sequences as u32)
        // Equal, so that a batch is one graph where cells are unified. llama.cpp keeps room for logits of
        // each sequence and aborts if a batch has less.
        .with_n_batch(config.batch_size.max(config.sequences) as u32)
        .with_n_ubatch(config.batch_size.max(config.sequences) as u32)
        .with_n_threads(config.threads as i32)
        .with_n_threads_batch(config.threads as i32)
        // Of each token; whoever asks pools them.
        .with_embeddings(config.embeddings)
        .with_pooling_type(LlamaPoolingType::None)
}

fn no_context(config: &DecoderConfig) -> Error {
    Error::OutOfMemory(format!(
        "llama.cpp could not make a context of {} cells (ctx_size) and {} tokens per step \
         (batch_size)",
        config.cells, config.batch_size
    ))
}

/// What llama.cpp would only answer with "no".
fn check_file(path: &Path) -> Result<()> {
    let refuse = |reason: String| Err(Error::ModelLoad { path: path.to_owned(), reason });
    if path.is_dir() {
        return refuse("it is a directory".to_owned());
    }
    let mut magic = Vec::new();
    match File::open(path).and_then(|file| file.take(4).read_to_end(&mut magic)) {
        Ok(_) if magic == b"GGUF" => Ok(()),
        Ok(_) => refuse("it is not a GGUF file".to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Error::ModelNotFound(path.to_owned()))
        }
        Err(error) => refuse(error.to_string()),
    }
}

/// That llama.cpp would not end the process with an illegal instruction.
fn check_processor(path: &Path) -> Result<()> {
    let lacking = processor::lacking();
    if lacking.is_empty() {
        return Ok(());
    }
    let reason = format!(
        "this module was built for a processor with {}, which this one lacks; build it on this \
         machine, or with RYOT_BUILD_PORTABLE=1",
        lacking.join(", ")
    );
    Err(Error::ModelLoad { path: path.to_owned(), reason })
}

/// The GPUs that llama.cpp was built for and has found; none where it cannot run.
fn gpus() -> Vec<LlamaBackendDevice> {
    if !processor::lacking().is_empty() {
        return Vec::new();
    }
    backend(); // devices register with it
    let gpus = [LlamaBackendDeviceType::Gpu, LlamaBackendDeviceType::IntegratedGpu];
    let mut devices = list_llama_ggml_backend_devices();
    devices.retain(|device| gpus.contains(&device.device_type));
    devices
}

/// The memory of these devices, for where their driver is not NVIDIA's.
#[derive(Debug)]
pub struct Devices(());

impl Devices {
    /// None if llama.cpp has no GPU.
    pub fn find() -> Option<Self> {
        (!gpus().is_empty()).then_some(Self(()))
    }
}

impl Probe for Devices {
    fn read(&mut self) -> Result<Vec<Reading>> {
        let read = |(number, gpu): (usize, LlamaBackendDevice)| Reading {
            device: number.to_string(),
            memory_used: Some(gpu.memory_total.saturating_sub(gpu.memory_free) as u64),
            memory_total: Some(gpu.memory_total as u64),
            ..Reading::default()
        };
        Ok(gpus().into_iter().enumerate().map(read).collect())
    }
}

/// The first GPU's backend, such as `cuda`.
fn gpu() -> Option<String> {
    let gpu = gpus().into_iter().next()?;
    Some(match gpu.backend.to_lowercase() {
        name if name == "mtl" => "metal".to_owned(),
        name => name,
    })
}

fn describe(model: &LlamaModel, path: &Path, device: String) -> ModelInfo {
    let vocab = model.vocab();
    let text = |token: LlamaToken| {
        let known = (0..vocab.n_tokens()).contains(&token.0);
        let text = vocab.text(token).filter(|_| known)?;
        Some(text.to_string_lossy().into_owned())
    };
    let file = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = model.meta_val_str("general.name").ok().or_else(file);
    let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
    let causal = model.meta_val_str(&format!("{architecture}.attention.causal"));
    let pooling = model.meta_val_str(&format!("{architecture}.pooling_type")).ok();
    ModelInfo {
        name: name.unwrap_or_default(),
        architecture,
        context_train: model.n_ctx_train() as usize,
        vocab_size: vocab.n_tokens() as usize,
        parameters: model.n_params(),
        size_bytes: model.size(),
        kv_bytes_per_token: kv_bytes_per_token(model),
        causal: causal.map_or(true, |text| text != "false"),
        pooling: pooling.and_then(|number| pooling_name(&number)),
        divisible: !(model.is_recurrent() || model.is_hybrid()),
        // A GPU takes a whole graph and cannot be stopped; a recurrent state cannot go back.
        interruptible: device == "cpu" && !(model.is_recurrent() || model.is_hybrid()),
        device,
        chat_template: model.chat_template(None).ok().and_then(|text| text.to_string().ok()),
        bos_text: text(vocab.bos()),
        eos_text: text(vocab.eos()),
        adapters: Vec::new(),
    }
}

/// The name of llama.cpp's pooling of this number; none if it leaves more than one vector, or a rank.
fn pooling_name(number: &str) -> Option<String> {
    match number {
        "1" => Some("mean".to_owned()),
        "2" => Some("cls".to_owned()),
        "3" => Some("last".to_owned()),
        _ => None,
    }
}

/// Keys and values of 16 bits in each layer; none for an architecture that keeps something else.
fn kv_bytes_per_token(model: &LlamaModel) -> Option<u64> {
    if model.is_recurrent() || model.is_hybrid() {
        return None;
    }
    let architecture = model.meta_val_str("general.architecture").ok()?;
    let given = |key: &str| {
        let key = format!("{architecture}.attention.{key}");
        model.meta_val_str(&key).ok()?.parse::<u64>().ok()
    };
    let usual = u64::try_from(model.n_embd()).ok()?.checked_div(u64::from(model.n_head()))?;
    let width = given("key_length").unwrap_or(usual) + given("value_length").unwrap_or(usual);
    Some(2 * u64::from(model.n_layer()) * u64::from(model.n_head_kv()) * width)
}
