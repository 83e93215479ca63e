//! The engine's Unix socket over real connections: failures of the model, ends of engine and server.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ryot_metrics::backend::DecodeFailure;
use ryot_metrics::backend::toy::Toy;
use ryot_metrics::clock::MonotonicClock;
use ryot_metrics::engine::{Engine, EngineConfig};
use ryot_metrics::event::Ignore;
use ryot_metrics::serve::uds::{Server, UdsConfig};
use serde_json::Value;
use serde_json::value::to_raw_value;

const PATIENCE: Duration = Duration::from_secs(30);

struct Service {
    engine: Engine,
    server: Server,
    path: PathBuf,
}

fn service(name: &str, toy: Toy) -> Service {
    let (config, clock) = (EngineConfig::default(), Arc::new(MonotonicClock));
    let engine = Engine::start(Arc::new(toy), config, Arc::new(Ignore), clock).unwrap();
    let path = std::env::temp_dir().join(format!("ryot-{}-{name}.sock", std::process::id()));
    let metrics = Arc::new(|sessions| to_raw_value(&sessions).unwrap());
    let server = Server::start(engine.clone(), metrics, UdsConfig::new(&path)).unwrap();
    Service { engine, server, path }
}

impl Service {
    fn ask(&self, request: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        send(&mut stream, request);
        stream
    }
}

fn send(stream: &mut UnixStream, json: &str) {
    stream.write_all(&(json.len() as u32).to_le_bytes()).unwrap();
    stream.write_all(json.as_bytes()).unwrap();
}

fn next(stream: &mut UnixStream) -> Value {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut json = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut json).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// The event that ends an answer, or comes before it.
fn until(stream: &mut UnixStream, event: &str) -> Value {
    loop {
        let next = next(stream);
        if next["event"] == event {
            return next;
        }
        assert_eq!(next["event"], "token", "{next}");
    }
}

/// Whether the server has closed it; one that it had not yet accepted is reset.
fn is_closed(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_failed_request_is_told_why_and_ends_the_connection() {
    let faults = BTreeMap::from([(2, DecodeFailure::Fatal("broken".to_owned()))]);
    let service = service("fault", Toy { faults, ..Toy::instant() });
    let mut stream = service.ask(r#"{"id": 1, "prompt": "hello", "max_tokens": 9}"#);
    let error = until(&mut stream, "error");
    assert_eq!((&error["code"], &error["id"]), (&"E_RUNTIME_DECODE".into(), &1.into()));
    assert!(error["message"].as_str().unwrap().contains("broken"), "{error}");
    let eos = next(&mut stream);
    assert_eq!((&eos["event"], &eos["reason"]), (&"eos".into(), &"error".into()));
    assert!(is_closed(&mut stream));
}

#[test]
fn a_prompt_that_the_context_cannot_hold_is_too_large() {
    let service = service("large", Toy::instant());
    let prompt = "x".repeat(5000);
    let mut stream = service.ask(&format!(r#"{{"id": "a", "prompt": "{prompt}"}}"#));
    let error = next(&mut stream);
    assert_eq!(error["code"], "E_LIMIT_PROMPT_TOO_LARGE");
    assert!(error["message"].as_str().unwrap().contains("5000 tokens"), "{error}");
    assert!(is_closed(&mut stream));
}

#[test]
fn a_servers_end_cancels_what_runs_and_tells_it() {
    let toy = Toy { step: Duration::from_millis(1), ..Toy::instant() };
    let service = service("server", toy);
    let mut stream = service.ask(r#"{"id": "a", "prompt": "hello", "max_tokens": 4000}"#);
    assert_eq!(next(&mut stream)["event"], "token");
    let mut idle = UnixStream::connect(&service.path).unwrap();
    service.server.shutdown().unwrap();
    assert!(!service.path.exists());
    assert_eq!(until(&mut stream, "eos")["reason"], "cancelled");
    assert!(is_closed(&mut stream) && is_closed(&mut idle));
    service.server.shutdown().unwrap();
}

/// A server that drains answers what runs to its end, and refuses what comes with its code.
#[test]
fn a_draining_server_admits_nothing() {
    let toy = Toy { step: Duration::from_millis(1), ..Toy::instant() };
    let service = service("drain", toy);
    let mut stream = service.ask(r#"{"id": "a", "prompt": "hello", "max_tokens": 400}"#);
    assert_eq!(next(&mut stream)["event"], "token");
    assert!(!service.server.drain(Duration::ZERO).unwrap());
    let mut late = service.ask(r#"{"id": "b", "prompt": "hello"}"#);
    let error = next(&mut late);
    assert_eq!((&error["code"], &error["id"]), (&"E_RUNTIME_CLOSED".into(), &"b".into()));
    assert!(is_closed(&mut late));
    let mut metrics = service.ask(r#"{"type": "metrics"}"#);
    assert_eq!(next(&mut metrics)["event"], "metrics");
    let eos = until(&mut stream, "eos");
    assert_eq!((&eos["reason"], &eos["completion_tokens"]), (&"length".into(), &400.into()));
    assert!(service.server.drain(PATIENCE).unwrap());
}

#[test]
fn a_closed_engine_has_a_code() {
    let service = service("engine", Toy::instant());
    service.engine.shutdown().unwrap();
    let mut stream = service.ask(r#"{"id": "a", "prompt": "hello"}"#);
    assert_eq!(next(&mut stream)["code"], "E_RUNTIME_CLOSED");
    assert!(is_closed(&mut stream));
}

#[test]
fn one_connection_asks_again_and_again() {
    let service = service("again", Toy::instant());
    let mut stream = service.ask(r#"{"id": 0, "prompt": "hello", "max_tokens": 5}"#);
    for id in 1..20 {
        let eos = until(&mut stream, "eos");
        assert_eq!((&eos["id"], &eos["completion_tokens"]), (&(id - 1).into(), &5.into()));
        let stream_too = id % 2 == 0;
        let fields = format!(r#""stream": {stream_too}, "max_tokens": 5, "prompt": "hello""#);
        send(&mut stream, &format!(r#"{{"id": {id}, {fields}}}"#));
    }
}
