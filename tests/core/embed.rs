//! Embeddings where the decoder fails or the engine ends: every request ends once.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use ryot_metrics::backend::DecodeFailure;
use ryot_metrics::backend::toy::Toy;
use ryot_metrics::clock::MonotonicClock;
use ryot_metrics::engine::{
    EmbedParams, Embeddings, Engine, EngineConfig, Pooling, Prompt, SamplingParams, Terms,
};
use ryot_metrics::error::{Error, ErrorKind, Result};
use ryot_metrics::event::{Event, FinishReason, Observer, Origin};

/// Keeps what is said about requests.
#[derive(Debug, Default)]
struct Log(Mutex<Vec<Event>>);

impl Observer for Log {
    fn observe(&self, event: &Event) {
        self.0.lock().push(event.clone());
    }
}

impl Log {
    /// Why the requests ended, and in batches of how many.
    fn ends(&self) -> Vec<(u64, FinishReason, usize)> {
        let end = |event: &Event| match *event {
            Event::Finished { id, reason, batch_size, .. } => Some((id, reason, batch_size)),
            _ => None,
        };
        self.0.lock().iter().filter_map(end).collect()
    }
}

fn start(toy: Toy) -> (Engine, Arc<Log>) {
    let config = EngineConfig { batch_size: 8, ..EngineConfig::default() };
    let log = Arc::new(Log::default());
    let engine = Engine::start(Arc::new(toy), config, log.clone(), Arc::new(MonotonicClock));
    (engine.unwrap(), log)
}

fn embed(engine: &Engine, texts: &[&str]) -> Result<Embeddings> {
    let prompts = texts.iter().copied().map(Prompt::from).collect();
    engine.embed(prompts, EmbedParams::default(), &Origin::default())
}

/// Short prompts share a batch, a long one has several of its own; none is larger than allowed,
/// or the toy would fail.
#[test]
fn prompts_are_computed_in_batches() {
    let (engine, log) = start(Toy::instant());
    let vectors = embed(&engine, &["abc", "defgh", "i", "a long one, of four", "j"]).unwrap();
    assert_eq!(vectors.values.len(), 5 * vectors.width);
    let ends = log.ends();
    assert_eq!(ends.iter().map(|end| end.2).collect::<Vec<_>>(), [2, 2, 1, 1, 1]);
    assert!(ends.iter().all(|end| end.1 == FinishReason::Stop), "{ends:?}");
    assert!(embed(&engine, &[]).unwrap().values.is_empty());
}

/// What was computed before a failure has ended well, the rest ends with the error.
#[test]
fn a_failure_ends_each_request_once() {
    for failure in [DecodeFailure::Fatal("boom".to_owned()), DecodeFailure::NoSpace] {
        let faults = BTreeMap::from([(1, failure)]);
        let (engine, log) = start(Toy { faults, ..Toy::instant() });
        let error = embed(&engine, &["abcd", "efghij", "k"]).unwrap_err();
        assert!(matches!(error, Error::Decode(_)), "{error}");
        let failed = FinishReason::Error(ErrorKind::InferenceError);
        assert_eq!(log.ends(), [(1, FinishReason::Stop, 1), (2, failed, 0), (3, failed, 0)]);
        let params = SamplingParams { max_tokens: Some(1), ..SamplingParams::greedy() };
        let next = engine.submit("x".into(), params, Terms::default(), Origin::default());
        assert_eq!(next.unwrap().id(), 4);
    }
}

/// A closed engine refuses, and that is one refusal.
#[test]
fn a_closed_engine_embeds_nothing() {
    let (engine, log) = start(Toy::instant());
    engine.shutdown().unwrap();
    assert_eq!(embed(&engine, &["a", "b"]), Err(Error::EngineClosed));
    assert!(log.ends().is_empty());
    let rejected = |event: &Event| matches!(event, Event::Rejected { .. });
    assert_eq!(log.0.lock().iter().filter(|event| rejected(event)).count(), 1);
}

/// Who names no pooling gets the model's own, and the mean where its file names none.
#[test]
fn the_models_own_pooling_is_the_default() {
    let embed = |named: Option<Pooling>, own: Option<&str>| {
        let mut toy = Toy::instant();
        toy.info.pooling = own.map(str::to_owned);
        let params = EmbedParams { pooling: named, ..EmbedParams::default() };
        start(toy).0.embed(vec!["abc".into()], params, &Origin::default()).unwrap()
    };
    let (mean, last) = (embed(Some(Pooling::Mean), None), embed(Some(Pooling::Last), None));
    assert_ne!(mean, last);
    assert_eq!((embed(None, None), embed(None, Some("last"))), (mean.clone(), last));
    assert_eq!(embed(Some(Pooling::Mean), Some("last")), mean);
}
