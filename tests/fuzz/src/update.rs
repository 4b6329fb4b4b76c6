//! kup's own files: the record, the history, what kupd asks of kup-worker, the staged kernel.

use std::fmt::Debug;
use std::path::Path;

use kup::fuzz::addition;
use kup::kernel::{Staged, check_release};
use kup::preflight::Report;
use kup::request::{CheckRequest, UpdateRequest};
use kup::update::{History, HistoryLine, Record, RecordError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A record is read and comes back as it was saved, or is refused by name.
pub fn record(data: &[u8]) {
    let path = Path::new("/etc/kup/record.json");
    match Record::parse(data, path) {
        Ok(record) => {
            assert_eq!(Record::parse(&record.render().unwrap(), path).unwrap(), record);
            let line = HistoryLine::from(&record);
            let text = addition(b"", &line).unwrap().unwrap();
            assert_eq!(History::parse(&text).0, [line]);
        }
        Err(e @ (RecordError::Damaged { .. } | RecordError::Version { .. })) => {
            assert!(e.to_string().contains("/etc/kup/record.json"));
        }
        Err(e) => panic!("{e}"),
    }
}

/// A line behind any history is its last one, and costs no other.
pub fn history(data: &[u8]) {
    let before = History::parse(data);
    let lines: Vec<_> = before.0.iter().map(|l| serde_json::to_vec(l).unwrap()).collect();
    assert_eq!(History::parse(&lines.join(&b'\n')), before);
    let line = before.0.first().cloned().unwrap_or_else(|| serde_json::from_str(LINE).unwrap());
    match addition(data, &line).unwrap() {
        None => assert_eq!(before.0.last().unwrap().id, line.id),
        Some(text) => {
            let after = History::parse(&[data, &text].concat());
            assert_eq!(after.0.split_last(), Some((&line, before.0.as_slice())));
        }
    }
}

const LINE: &str =
    r#"{"id":"5a","result":"done","reason":null,"source":"1","target":"2","units":{},"ended":3,"phases":[]}"#;

/// Requests, reports and the staged kernel come back as they were written.
pub fn request(data: &[u8]) {
    is_stable::<UpdateRequest>(data);
    is_stable::<CheckRequest>(data);
    is_stable::<Report>(data);
    if let Ok(staged) = Staged::parse(data) {
        check_release(&staged.release).unwrap();
        assert_eq!(Staged::parse(&serde_json::to_vec(&staged).unwrap()).unwrap(), staged);
    }
}

fn is_stable<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        assert_eq!(serde_json::from_slice::<T>(&serde_json::to_vec(&value).unwrap()).unwrap(), value);
    }
}
