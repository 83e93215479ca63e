//! Files that are no models, and what a model says about itself.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ryot_metrics::backend::Model;
use ryot_metrics::backend::llama::Llama;
use ryot_metrics::engine::EngineConfig;
use ryot_metrics::error::Error;

use crate::{finish, model, model_path, start, submit};

fn temporary(name: &str, content: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ryot-{}-{name}", std::process::id()));
    std::fs::File::create(&path).unwrap().write_all(content).unwrap();
    path
}

fn refusal(path: &Path) -> String {
    match Llama::load(path, None, &[]).map(drop).unwrap_err() {
        Error::ModelLoad { path: named, reason } => {
            assert_eq!(named, path);
            reason
        }
        other => panic!("{other}"),
    }
}

/// Each kind of bad file is told apart.
#[test]
fn bad_files_are_refused() {
    let missing = Path::new("no/such/model.gguf");
    assert_eq!(
        Llama::load(missing, None, &[]).map(drop).unwrap_err(),
        Error::ModelNotFound(missing.to_owned())
    );
    assert_eq!(refusal(&std::env::temp_dir()), "it is a directory");
    for (name, content) in [("text", &b"hello, world"[..]), ("empty", b""), ("short", b"GG")] {
        let path = temporary(name, content);
        assert_eq!(refusal(&path), "it is not a GGUF file");
        std::fs::remove_file(path).unwrap();
    }
    let path = temporary("magic", b"GGUF and then nonsense");
    assert!(refusal(&path).starts_with("llama.cpp refuses it"));
    std::fs::remove_file(path).unwrap();
}

/// A download that broke off is refused, wherever it broke.
#[test]
fn a_cut_off_file_is_refused() {
    let Some(whole) = model_path() else { return };
    for bytes in [1_000, 1_000_000, 20_000_000] {
        let mut head = Vec::new();
        std::fs::File::open(&whole).unwrap().take(bytes).read_to_end(&mut head).unwrap();
        let path = temporary(&format!("cut-{bytes}"), &head);
        assert!(refusal(&path).starts_with("llama.cpp refuses it"));
        std::fs::remove_file(path).unwrap();
    }
}

/// The file's facts arrive, and text survives tokens.
#[test]
fn a_model_describes_itself() {
    let Some(model) = model() else { return };
    let info = model.info();
    assert!(info.vocab_size > 1_000 && info.context_train >= 512, "{info:?}");
    assert!(info.parameters > 1_000_000 && info.size_bytes > 1_000_000);
    assert!(info.kv_bytes_per_token.is_some_and(|bytes| bytes > 1_000), "{info:?}");
    assert!(!info.name.is_empty() && !info.architecture.is_empty());
    let text = "Zwölf 😀 boxers, hello";
    let tokens = model.tokenize(text, false, true).unwrap();
    let bytes: Vec<u8> = tokens.iter().flat_map(|&token| model.piece(token)).collect();
    assert_eq!(String::from_utf8(bytes).unwrap().trim_start(), text);
    assert!(model.tokenize("", false, true).unwrap().is_empty());
    if let Some(end) = &info.eos_text {
        let tokens = model.tokenize(end, false, true).unwrap();
        assert!(tokens.len() == 1 && model.is_end(tokens[0]), "{tokens:?}");
        assert!(model.piece(tokens[0]).is_empty());
    }
}

/// The beginning of a sequence is never added to a text that has it.
#[test]
fn the_beginning_is_not_doubled() {
    let Some(model) = model() else { return };
    let Some(bos) = &model.info().bos_text else { return };
    let added = model.tokenize("hello", true, true).unwrap();
    let written = model.tokenize(&format!("{bos}hello"), true, true).unwrap();
    let bos = model.tokenize(bos, false, true).unwrap()[0];
    assert_eq!(written[0], bos);
    assert_ne!(written[1], bos);
    assert!(added[0] != bos || added == written);
}

/// Three engines made at once on one model answer alike.
#[test]
fn several_engines_share_a_model() {
    let Some(model) = model() else { return };
    let config = EngineConfig { ctx_size: 256, parallel: 1, ..EngineConfig::default() };
    let engines: Vec<_> = std::thread::scope(|scope| {
        let start = || start(model.clone(), config.clone());
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let answers: Vec<_> = engines
        .iter()
        .map(|engine| finish(&submit(engine, "The capital of France is".into(), 8)).0)
        .map(|deltas| deltas.iter().map(|delta| delta.token).collect::<Vec<_>>())
        .collect();
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.len() == 8));
}
