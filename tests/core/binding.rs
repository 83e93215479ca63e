//! The binding's promises to interpreters without a GIL, as far as they can be read off its text.

use std::fs;
use std::path::Path;

/// The files of the binding, with their text.
fn files() -> Vec<(String, String)> {
    below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/py"))
}

fn below(folder: &Path) -> Vec<(String, String)> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return below(&path);
        }
        vec![(path.display().to_string(), fs::read_to_string(&path).unwrap())]
    };
    fs::read_dir(folder).unwrap().flat_map(read).collect()
}

#[test]
fn every_class_is_frozen_so_that_threads_share_it_without_a_borrow_flag() {
    let mut classes = 0;
    for (path, text) in files() {
        for class in text.split("#[pyclass").skip(1) {
            let arguments = class.split(']').next().unwrap();
            assert!(arguments.contains("frozen"), "{path}: #[pyclass{arguments}]");
            classes += 1;
        }
    }
    assert!(classes > 5);
}

#[test]
fn the_module_does_not_ask_for_the_gil() {
    for (path, text) in files() {
        assert!(!text.contains("gil_used = true"), "{path}");
    }
}
