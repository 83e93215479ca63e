//! The engine on llama.cpp, against llama.cpp itself. Needs a model: `RYOT_TEST_MODEL` is the path
//! of a small GGUF file; without it, these tests say so and pass.

mod embed;
mod halt;
mod load;
mod reference;
mod sampling;
mod throughput;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ryot_metrics::backend::llama::Llama;
use ryot_metrics::clock::MonotonicClock;
use ryot_metrics::engine::{
    Delta, Engine, EngineConfig, Finish, Prompt, RequestHandle, SamplingParams, Terms,
};
use ryot_metrics::event::{Ignore, Origin};

/// The test model's path, if there is one.
#[allow(clippy::print_stderr)]
fn model_path() -> Option<PathBuf> {
    let path = std::env::var_os("RYOT_TEST_MODEL").map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: RYOT_TEST_MODEL names no model");
    }
    path
}

/// The test model, loaded once.
fn model() -> Option<Arc<Llama>> {
    static MODEL: OnceLock<Option<Arc<Llama>>> = OnceLock::new();
    let load = || Some(Arc::new(Llama::load(&model_path()?, None, &[]).unwrap()));
    MODEL.get_or_init(load).clone()
}

fn start(model: Arc<Llama>, config: EngineConfig) -> Engine {
    Engine::start(model, config, Arc::new(Ignore), Arc::new(MonotonicClock)).unwrap()
}

fn submit(engine: &Engine, prompt: Prompt, max_tokens: usize) -> RequestHandle {
    let params = SamplingParams { max_tokens: Some(max_tokens), ..SamplingParams::greedy() };
    engine.submit(prompt, params, Terms::default(), Origin::default()).unwrap()
}

fn finish(request: &RequestHandle) -> (Vec<Delta>, Finish) {
    assert!(request.wait_finished(Duration::from_secs(300)).unwrap());
    let (deltas, finish) = request.drain().unwrap();
    (deltas, finish.unwrap())
}
