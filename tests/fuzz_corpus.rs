//! The corpora of `tests/fuzz` once through its targets, without libFuzzer: what was found once stays found.

use std::fs;
use std::path::Path;

#[path = "fuzz/src/lib.rs"]
mod fuzz;

#[test]
fn every_corpus() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, target) in fuzz::TARGETS {
        let dir = corpora.join(name);
        let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", dir.display());
        for file in files {
            println!("{}", file.display());
            target(&fs::read(&file).unwrap());
        }
    }
}
