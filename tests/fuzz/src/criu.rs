//! What CRIU says, and the images of it that kup reads.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use kup::fuzz::{Response, Said, criu_log};
use kup::net::images::{ImageError, connections_in};
use kup::net::nudge::{Outstanding, message};
use prost::Message;

use super::parts;

/// A packet of `criu swrk`, and the same bytes as its log.
pub fn criu_reply(data: &[u8]) {
    if let Ok(response) = Response::decode(data) {
        assert_eq!(Response::decode(response.encode_to_vec().as_slice()).unwrap(), response);
    }
    match Said::read(data) {
        Ok(Said::Answer(Err(no))) => assert_ne!(no.to_string(), "criu: "),
        Ok(Said::Answer(Ok(response))) => assert!(response.success),
        Ok(Said::Notification(_)) => {}
        Err(e) => assert!(Response::decode(data).is_err(), "{e}"),
    }
    if let Some(line) = criu_log(&String::from_utf8_lossy(data)) {
        assert!(line.starts_with("Error ("));
    }
}

/// `files.img`, then one image of a TCP stream after the other; four record separators are between them.
pub fn criu_images(data: &[u8]) {
    let parts = parts(data);
    let streams = AtomicUsize::new(0);
    let open = |path: &Path| {
        let number = match path.ends_with("files.img") {
            true => 0,
            false => streams.fetch_add(1, Ordering::Relaxed) + 1,
        };
        Ok(parts.get(number).map(|part| (*part, part.len() as u64)))
    };
    match connections_in(Path::new("/images"), open) {
        Ok(found) => {
            assert!(found.len() < parts.len());
            for outstanding in found.iter().flat_map(Outstanding::of) {
                message(&outstanding);
            }
        }
        Err(ImageError::Damaged { .. }) => {}
        Err(e) => panic!("nothing but damage can be wrong with what is in memory: {e}"),
    }
}
