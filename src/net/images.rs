//! TCP connections in a directory of CRIU images: who the peer is, and which byte it has to send next.
//!
//! Formats: images/fdinfo.proto, sk-inet.proto and tcp-stream.proto of CRIU, of which only the fields needed here are
//! declared.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use prost::Message;

pub use crate::criu::image::ImageError;
use crate::criu::image::messages;

/// A TCP connection as it was dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dumped {
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// The sequence number that we expect next (rcv_nxt).
    pub rcv_nxt: u32,
    /// The sequence number up to which we had told the peer that we have its data (rcv_wup). It is behind `rcv_nxt` while
    /// an acknowledgement is delayed, and is then what the peer sends again.
    pub acknowledged: u32,
}

const FILES_MAGIC: u32 = 0x5630_3138;
const TCP_STREAM_MAGIC: u32 = 0x5146_5506;

#[derive(Clone, PartialEq, Message)]
struct FileEntry {
    #[prost(message, optional, tag = "4")]
    inet: Option<InetEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct InetEntry {
    #[prost(uint32, tag = "2")]
    inode: u32,
    #[prost(uint32, tag = "3")]
    family: u32,
    #[prost(uint32, tag = "5")]
    protocol: u32,
    #[prost(uint32, tag = "7")]
    local_port: u32,
    #[prost(uint32, tag = "8")]
    remote_port: u32,
    // Addresses are 32-bit words as they lie in memory (network order); ports are plain numbers.
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    local: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "12")]
    remote: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct TcpStream {
    #[prost(uint32, tag = "2")]
    inq_seq: u32,
    #[prost(uint32, optional, tag = "17")]
    rcv_wup: Option<u32>,
}

/// Every TCP connection in `images`; listeners and closed sockets have no stream and are left out.
///
/// # Errors
/// [`ImageError`].
pub fn connections(images: &Path) -> Result<Vec<Dumped>, ImageError> {
    connections_in(images, |path| {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let length = file.metadata()?.len();
        Ok(Some((io::BufReader::new(file), length)))
    })
}

/// As [`connections`], of images that `open` gives: the content and its length, `None` where there is no such file.
///
/// # Errors
/// [`ImageError`].
pub fn connections_in<R: Read>(
    images: &Path,
    open: impl Fn(&Path) -> io::Result<Option<(R, u64)>>,
) -> Result<Vec<Dumped>, ImageError> {
    let opened = |path: &Path| open(path).map_err(|cause| ImageError::Io { path: path.into(), cause });
    let files = images.join("files.img");
    let missing = || ImageError::Io { path: files.clone(), cause: io::ErrorKind::NotFound.into() };
    let mut found = Vec::new();
    for entry in messages::<FileEntry>(&files, opened(&files)?.ok_or_else(missing)?, FILES_MAGIC, usize::MAX)? {
        let Some(inet) = entry.inet.filter(|i| i.protocol == nix::libc::IPPROTO_TCP as u32 && i.remote_port != 0)
        else {
            continue;
        };
        let path = images.join(format!("tcp-stream-{:x}.img", inet.inode));
        let Some(image) = opened(&path)? else { continue };
        let damaged = |what: &str| ImageError::Damaged { path: path.clone(), what: what.into() };
        let mut streams = messages::<TcpStream>(&path, image, TCP_STREAM_MAGIC, 1)?;
        let stream = streams.pop().ok_or_else(|| damaged("it is empty"))?;
        let end = |words: &[u32], port: u32| {
            let port = u16::try_from(port).ok()?;
            Some(SocketAddr::new(address(inet.family, words)?, port))
        };
        let ends = end(&inet.local, inet.local_port).zip(end(&inet.remote, inet.remote_port));
        let (local, remote) = ends.ok_or_else(|| damaged("its socket in files.img has no address"))?;
        let acknowledged = stream.rcv_wup.unwrap_or(stream.inq_seq);
        found.push(Dumped { local, remote, rcv_nxt: stream.inq_seq, acknowledged });
    }
    Ok(found)
}

fn address(family: u32, words: &[u32]) -> Option<IpAddr> {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    if family == nix::libc::AF_INET as u32 {
        Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?))
    } else {
        Some(IpAddr::from(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?).to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::net::nudge::Outstanding;
    use proptest::prelude::*;

    /// What CRIU 4.1.1 wrote of a process with seven TCP sockets: three connections to itself (IPv4, IPv6, and IPv4 that an
    /// IPv6 socket accepted, with 6 bytes unread) and one from 10.77.0.1, which had sent 5 bytes.
    fn images() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/net/testdata")
    }

    fn all<M: Message + Default>(path: &Path, magic: u32, most: usize) -> Vec<M> {
        let image = std::fs::read(path).unwrap();
        messages(path, (image.as_slice(), image.len() as u64), magic, most).unwrap()
    }

    /// The sending side of a stream, to check the receiving side of its peer against.
    #[derive(Clone, PartialEq, Message)]
    struct Sender {
        #[prost(uint32, tag = "3")]
        outq_len: u32,
        #[prost(uint32, tag = "4")]
        outq_seq: u32,
    }

    #[test]
    fn a_real_dump() {
        let found = connections(&images()).unwrap();
        assert_eq!(found.len(), 7);
        let outside: Vec<_> = found.iter().flat_map(Outstanding::of).collect();
        let ends = |o: &Outstanding| (o.local.to_string(), o.remote.to_string());
        assert_eq!(outside.iter().map(ends).collect::<Vec<_>>(), [("10.77.0.2:7000".into(), "10.77.0.1:49464".into())]);
        assert!(found.iter().any(|d| d.local.is_ipv6()));
        assert!(found.iter().filter(|d| d.local.port() == 7001 || d.remote.port() == 7001).any(|d| d.local.is_ipv4()));

        // Both ends of the connections to itself: what one expects next is what the other has unacknowledged next.
        let mut checked = 0;
        for entry in all::<FileEntry>(&images().join("files.img"), FILES_MAGIC, usize::MAX) {
            let Some(inet) = entry.inet.filter(|i| i.remote_port != 0) else { continue };
            let path = images().join(format!("tcp-stream-{:x}.img", inet.inode));
            let sender = all::<Sender>(&path, TCP_STREAM_MAGIC, 1).remove(0);
            let port = |p| u16::try_from(p).unwrap();
            let (local, remote) = (port(inet.local_port), port(inet.remote_port));
            if let Some(peer) = found.iter().find(|d| (d.local.port(), d.remote.port()) == (remote, local)) {
                assert_eq!(peer.rcv_nxt, sender.outq_seq.wrapping_sub(sender.outq_len));
                assert_eq!(peer.acknowledged, peer.rcv_nxt, "nothing was delayed on loopback");
                checked += 1;
            }
        }
        assert_eq!(checked, 6);
    }

    #[test]
    fn damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("files.img");
        assert!(matches!(connections(dir.path()), Err(ImageError::Io { .. })));
        let good = std::fs::read(images().join("files.img")).unwrap();
        std::fs::write(&files, &good).unwrap();
        assert_eq!(connections(dir.path()).unwrap(), [], "sockets without a stream");
        std::fs::write(&files, [&good[..4], &good[8..]].concat()).unwrap();
        let e = connections(dir.path()).unwrap_err().to_string();
        assert!(e.contains("files.img is damaged: its magic"), "{e}");
        for cut in [3, 10, good.len() - 1] {
            std::fs::write(&files, &good[..cut]).unwrap();
            assert!(matches!(connections(dir.path()), Err(ImageError::Damaged { .. })), "{cut}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn never_panics(position in 0usize..2092, byte: u8) {
            let dir = tempfile::tempdir().unwrap();
            let mut garbled = std::fs::read(images().join("files.img")).unwrap();
            garbled[position] = byte;
            std::fs::write(dir.path().join("files.img"), garbled).unwrap();
            for entry in std::fs::read_dir(images()).unwrap().flatten().filter(|e| e.file_name() != "files.img") {
                std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
            }
            let _ = connections(dir.path());
        }
    }
}
