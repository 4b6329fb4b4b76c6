use std::os::unix::net::UnixListener;
use std::thread;

use zbus::wire::to_bytes;

use super::*;

/// As long as the name that PID 1 signs with, and acceptable to zbus, which makes the answers here.
const STAND_IN: &str = ":rg.freedesktop.systemd1";
const SENDER: &str = "org.freedesktop.systemd1";

/// What comes in, as the side that zbus would accept it from sees it.
fn receive(stream: &mut UnixStream) -> Option<Incoming> {
    Incoming::read(stream).ok()
}

fn serial(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes(bytes[8..12].try_into().unwrap())
}

/// `message` with the sender and, where it is an answer, the serial number that PID 1 would give it.
fn signed(message: &Message, to: u32) -> Vec<u8> {
    let mut bytes = message.data().bytes().to_vec();
    let at = bytes.windows(STAND_IN.len()).position(|w| w == STAND_IN.as_bytes()).unwrap();
    bytes[at..at + SENDER.len()].copy_from_slice(SENDER.as_bytes());
    // The field's code, its signature, padding, and then the number itself.
    if let Some(at) = bytes.windows(4).position(|w| w == [5, 1, b'u', 0]) {
        bytes[at + 4..at + 8].copy_from_slice(&to.to_ne_bytes());
    }
    bytes
}

fn call() -> Message {
    Message::method_call("/a", "Get").build(&()).unwrap()
}

fn signal() -> Vec<u8> {
    let signal = Message::signal("/a", "a.b", "Changed").sender(STAND_IN);
    signed(&signal.build(&7u32).unwrap(), 0)
}

/// Reads the handshake, all of which is there before the answer, and not a byte more.
fn greet(stream: &mut UnixStream, answer: &str) {
    let mut asked = Vec::new();
    while !asked.ends_with(b"BEGIN\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        asked.push(byte[0]);
    }
    assert!(asked.starts_with(b"\0AUTH EXTERNAL 3"), "{asked:?}");
    stream.write_all(answer.as_bytes()).unwrap();
}

/// A PID 1 that serves as many connections as there are `answers`, and closes each after its last one.
fn pid1(answers: Vec<Vec<Message>>) -> (tempfile::TempDir, Private) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("private");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for answers in answers {
            let mut stream = listener.accept().unwrap().0;
            greet(&mut stream, "OK 0123456789abcdef0123456789abcdef\r\n");
            for answer in answers {
                let Some(asked) = receive(&mut stream) else { return };
                stream.write_all(&signal()).unwrap();
                stream.write_all(&signed(&answer, serial(&asked.bytes))).unwrap();
            }
        }
    });
    let private = Private::connect(&path).unwrap();
    (dir, private)
}

fn answer<B: serde::Serialize + Type>(body: &B) -> Message {
    Message::method_return(&call().header()).sender(STAND_IN).build(body).unwrap()
}

#[test]
fn answers_with_a_well_known_sender_are_read() {
    let answers = vec![answer(&("active", 7u32)), answer(&()), answer(&vec!["a", "b"])];
    let (_dir, private) = pid1(vec![answers]);
    assert_eq!(private.call::<(String, u32)>(&call()).unwrap(), ("active".into(), 7));
    private.call::<()>(&call()).unwrap();
    assert_eq!(private.call::<Vec<String>>(&call()).unwrap(), ["a", "b"]);
}

#[test]
fn errors_and_what_was_not_asked_for() {
    let refusal = Message::error(&call().header(), "org.freedesktop.systemd1.NoSuchUnit");
    let refusal = refusal.sender(STAND_IN).build(&"Unit x not found.").unwrap();
    let (_dir, private) = pid1(vec![vec![refusal, answer(&7u32), answer(&8u32)]]);
    let e = private.call::<String>(&call()).unwrap_err().to_string();
    assert_eq!(e, "org.freedesktop.systemd1.NoSuchUnit: Unit x not found.");
    let e = private.call::<String>(&call()).unwrap_err().to_string();
    assert_eq!(e, "it answers with 'u', not 's'");
    assert_eq!(private.call::<u32>(&call()).unwrap(), 8, "the connection is still good");
}

#[test]
fn a_connection_that_was_closed_is_made_anew() {
    let (_dir, private) = pid1(vec![vec![answer(&1u32)], vec![answer(&2u32)]]);
    assert_eq!(private.call::<u32>(&call()).unwrap(), 1);
    // The other side has closed by the time that the next accept has returned to it; until then a call may fail once.
    let second = private.call::<u32>(&call()).or_else(|_| private.call::<u32>(&call()));
    assert_eq!(second.unwrap(), 2);
}

#[test]
fn nobody_there_and_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("private");
    let e = format!("{:#}", Private::connect(&path).unwrap_err());
    assert!(e.contains("private"), "{e}");
    let listener = UnixListener::bind(&path).unwrap();
    let refuses = thread::spawn(move || greet(&mut listener.accept().unwrap().0, "REJECTED EXTERNAL\r\n"));
    let e = format!("{:#}", Private::connect(&path).unwrap_err());
    assert!(e.contains("REJECTED"), "{e}");
    refuses.join().unwrap();
}

#[test]
fn half_a_message_is_an_error() {
    let whole = signal();
    for cut in [0, 5, FIXED, FIXED + 3, whole.len() - 1] {
        assert!(Incoming::read(&mut &whole[..cut]).is_err(), "{cut}");
    }
    assert_eq!(Incoming::read(&mut whole.as_slice()).unwrap().answers().unwrap(), None);
    let mut foreign = whole.clone();
    foreign[0] = b'x';
    assert!(Incoming::read(&mut foreign.as_slice()).is_err());
    let endless =
        to_bytes(serialized::Context::new(NATIVE_ENDIAN, 0), &(0x0100_016cu32, u32::MAX, 1u32, u32::MAX)).unwrap();
    assert!(Incoming::read(&mut endless.bytes()).is_err());
}
