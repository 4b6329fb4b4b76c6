use std::io::Cursor;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::criu::pagemap;
use crate::store::foam::tests::{Ram, page};
use crate::store::{Extent, Memory, PAGE, Sealed};

/// What CRIU writes.
struct Client {
    new: bool,
    bytes: Vec<u8>,
}

const PID: u64 = 712 << 8 | 1;
const SHARED: u64 = 9 << 8 | 2;
const OPEN2: u32 = 4;
const PARENT_CHECK: u32 = 5;
const FORCE_CLOSE: u32 = 0x1024;

impl Client {
    fn new(new: bool) -> Self {
        Self { new, bytes: Vec::new() }
    }

    fn say(mut self, command: u32, pages: u64, address: u64, owner: u64) -> Self {
        self.bytes.extend(command.to_ne_bytes());
        match self.new {
            true => self.bytes.extend([[0xaa; 4].as_slice(), &pages.to_ne_bytes()].concat()),
            false => self.bytes.extend((pages as u32).to_ne_bytes()),
        }
        self.bytes.extend([address.to_ne_bytes(), owner.to_ne_bytes()].concat());
        self
    }

    fn add(self, flags: u32, address: u64, seeds: &[u64], owner: u64) -> Self {
        let mut client = self.say(flags << 16 | 6, seeds.len() as u64, address, owner);
        client.bytes.extend(seeds.iter().flat_map(|seed| page(*seed)));
        client
    }

    fn serve(self, foam: &mut Foam) -> (Result<(), PageError>, Vec<u8>) {
        let mut wire = Wire { input: Cursor::new(self.bytes), output: Vec::new() };
        (serve(&mut wire, foam), wire.output)
    }
}

/// A socket whose other end has said everything that it will.
struct Wire {
    input: Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn foam() -> Foam {
    Foam::new(Arc::new(Ram::default()))
}

fn first_round(new: bool) -> Client {
    let client = Client::new(new).say(OPEN2, 0, 0, PID);
    let client = client.add(LAZY | PRESENT, 0x1000, &[1, 2, 3], PID).add(PRESENT, WINDOW - PAGE, &[4, 5], PID);
    client.say(OPEN2, 0, 0, SHARED).add(PRESENT, 0, &[6], SHARED).say(FORCE_CLOSE, 0, 0, 0)
}

fn contents(sealed: &Sealed, owner: Owner) -> Vec<(Extent, Vec<u64>)> {
    let (_, memory) = sealed.owners().find(|(o, _)| *o == owner).unwrap();
    let read = |extent: &Extent| {
        let mut data = vec![0; (extent.pages * PAGE) as usize];
        memory.read(extent.start, &mut data).unwrap();
        let seeds = data.chunks_exact(PAGE as usize).map(|p| u64::from_le_bytes(p[..8].try_into().unwrap()));
        (*extent, seeds.collect())
    };
    memory.extents().iter().map(read).collect()
}

#[test]
fn two_rounds_in_both_layouts() {
    for new in [false, true] {
        let mut foam = foam();
        let (result, said) = first_round(new).serve(&mut foam);
        result.unwrap();
        assert_eq!(said, [0, 0, 0, 0, 0, 0], "no earlier round of either; success");

        let client = Client::new(new).say(PARENT_CHECK, 0, 0, PID).say(PARENT_CHECK, 0, 0, 800 << 8 | 1);
        let client = client.say(OPEN2, 0, 0, PID).say(PARENT << 16 | 6, 2, 0x1000, PID);
        let client = client.add(LAZY | PRESENT, 0x3000, &[33], PID).say(2, 1, WINDOW, PID);
        let (result, said) = client.say(FORCE_CLOSE, 0, 0, 0).serve(&mut foam);
        result.unwrap();
        assert_eq!(said, [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);

        let sealed = foam.seal();
        assert_eq!(sealed.owners().len(), 1, "the shared memory is gone");
        let expected = [
            (Extent { start: 0x1000, pages: 3, lazy: true }, vec![1, 2, 33]),
            (Extent { start: WINDOW, pages: 1, lazy: false }, vec![5]),
        ];
        assert_eq!(contents(&sealed, Owner::Process(712)), expected);
    }
}

#[test]
fn a_dump_without_memory_ends_at_once() {
    for new in [false, true] {
        let (result, said) = Client::new(new).say(FORCE_CLOSE, 0, 0, 0).serve(&mut foam());
        result.unwrap();
        assert_eq!(said, [0; 4]);
    }
}

#[test]
fn a_torn_stream_is_an_error() {
    for new in [false, true] {
        let whole = first_round(new).bytes;
        for length in (0..whole.len() - 1).step_by(41) {
            // The end of the last command is not needed to understand it.
            let client = Client { new, bytes: whole[..length].into() };
            let (result, _) = client.serve(&mut foam());
            assert!(matches!(result, Err(PageError::Torn)), "{length}: {result:?}");
        }
    }
}

#[test]
fn nonsense_is_named() {
    let open = |new| Client::new(new).say(OPEN2, 0, 0, PID);
    type Case<'a> = (Client, &'a str);
    let cases: [Case; 11] = [
        (Client::new(true).say(7, 0, 0, PID), "command 7"),
        (Client::new(true).say(OPEN2, 0, 0, 712 << 8 | 3), "nobody has the number 0x2c803"),
        (Client::new(true).say(OPEN2, 0, 0, 1), "nobody has the number 0x1"),
        (open(false).say(OPEN2, 0, 0, PID), "process 712 comes twice"),
        (open(true).add(PRESENT, 0, &[1], SHARED), "shared memory 9 has not begun"),
        (open(true).say(LAZY << 16 | 6, 1, 0, PID), "pages of process 712 at 0x0 with the flags 0x2"),
        (open(true).say((PARENT | PRESENT) << 16 | 6, 1, 0, PID), "with the flags 0x5"),
        (open(true).say(8 << 16 | 6, 1, 0, PID), "with the flags 0x8"),
        (open(true).say(PRESENT << 16 | 6, u64::MAX, 0x1000, PID), "has no 18446744073709551615 pages at 0x1000"),
        (open(false).say(PRESENT << 16 | 6, 1, u64::MAX, PID), "has no 1 pages at 0xffffffffffffffff"),
        (open(false).say(PARENT << 16 | 6, 1 << 31, 0, PID), "process 712 has nothing stored at 0x0"),
    ];
    for (client, expected) in cases {
        let why = client.serve(&mut foam()).0.unwrap_err().to_string();
        assert!(why.contains(expected), "{why}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_served_or_refused(new: bool, at in 0usize..200, garbage in prop::collection::vec(any::<u8>(), 1..64)) {
        let mut client = first_round(new);
        let end = (at + garbage.len()).min(client.bytes.len());
        client.bytes.splice(at..end, garbage);
        let _ = client.serve(&mut foam());
    }
}

#[test]
fn over_a_socket() {
    let (server, theirs) = PageServer::start(foam()).unwrap();
    let mut criu = UnixStream::from(theirs);
    criu.write_all(&first_round(true).bytes).unwrap();
    let mut said = Vec::new();
    criu.read_to_end(&mut said).unwrap();
    assert_eq!(said, [0; 6]);
    assert_eq!(contents(&server.finish().unwrap().seal(), Owner::Shared(9)).len(), 1);

    let (server, theirs) = PageServer::start(foam()).unwrap();
    drop(theirs);
    assert!(matches!(server.finish(), Err(PageError::Torn)));

    // Somebody still has CRIU's end.
    let (server, _theirs) = PageServer::start(foam()).unwrap();
    assert!(server.give_up().is_none());
}

/// As images for CRIU and back; what may come late is in them only where it is asked for.
#[test]
fn images_and_back() {
    let mut stored = foam();
    first_round(true).serve(&mut stored).0.unwrap();
    let sealed = stored.seal();
    for lazy_elsewhere in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        pagemap::write(&sealed, dir.path(), lazy_elsewhere).unwrap();
        let length = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len() / PAGE;
        let pages = if lazy_elsewhere { 2 } else { 5 };
        assert_eq!((length("pages-65537.img"), length("pages-65538.img")), (pages, 1));
        let mut again = foam();
        let mut read = |owner| pagemap::read(dir.path(), owner, &mut again);
        let (own, shared) = (read(Owner::Process(712)), read(Owner::Shared(9)));
        assert_eq!(shared.unwrap(), dir.path().join("pages-65538.img"));
        if lazy_elsewhere {
            let why = own.unwrap_err().to_string();
            assert!(why.contains("pagemap-712.img is damaged: the pages at 0x1000 are not in it"), "{why}");
            continue;
        }
        own.unwrap();
        again.end_round();
        let again = again.seal();
        for owner in [Owner::Process(712), Owner::Shared(9)] {
            assert_eq!(contents(&again, owner), contents(&sealed, owner));
        }
        // A page that is missing is not made up.
        let cut = std::fs::File::options().write(true).open(dir.path().join("pages-65537.img")).unwrap();
        cut.set_len(4 * PAGE + 1).unwrap();
        let why = pagemap::read(dir.path(), Owner::Process(712), &mut foam()).unwrap_err().to_string();
        assert!(why.contains("pages-65537.img"), "{why}");
    }
}
