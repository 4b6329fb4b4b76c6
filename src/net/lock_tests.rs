use super::*;
use crate::net::own_namespace;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn connection(local: &str, remote: &str) -> Connection {
    Connection { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
}

fn spec() -> LockSpec {
    let listeners = ["0.0.0.0:6379", "[::]:80", "127.0.0.1:11211"].map(|l| l.parse().unwrap());
    let connections = [
        connection("10.0.0.2:6379", "10.0.0.1:50000"),
        connection("[::ffff:10.0.0.2]:41000", "[::ffff:10.0.0.9]:5432"),
        connection("10.0.0.2:40000", "10.0.0.9:5432"),
        connection("[fd00::2]:40000", "[fd00::9]:443"),
    ];
    LockSpec::new(listeners, connections)
}

const GOLDEN: &str = "\
table inet kup
delete table inet kup
table inet kup {
	set ports {
		type inet_service
		elements = {
			80,
			6379,
			11211
		}
	}
	set connections4 {
		type ipv4_addr . inet_service . ipv4_addr . inet_service
		elements = {
			10.0.0.2 . 40000 . 10.0.0.9 . 5432,
			10.0.0.2 . 41000 . 10.0.0.9 . 5432
		}
	}
	set connections6 {
		type ipv6_addr . inet_service . ipv6_addr . inet_service
		elements = {
			fd00::2 . 40000 . fd00::9 . 443
		}
	}
	chain input {
		type filter hook input priority -300; policy accept;
		meta mark 0xc114 accept
		tcp dport @ports drop
		ip daddr . tcp dport . ip saddr . tcp sport @connections4 drop
		ip6 daddr . tcp dport . ip6 saddr . tcp sport @connections6 drop
	}
	chain output {
		type filter hook output priority -300; policy accept;
		meta mark 0xc114 accept
		tcp sport @ports drop
		ip saddr . tcp sport . ip daddr . tcp dport @connections4 drop
		ip6 saddr . tcp sport . ip6 daddr . tcp dport @connections6 drop
	}
}
";

#[test]
fn golden() {
    assert_eq!(ruleset(&spec()), GOLDEN);
    assert!(!ruleset(&LockSpec::default()).contains("drop"));
    let json = serde_json::to_string(&spec()).unwrap();
    assert_eq!(serde_json::from_str::<LockSpec>(&json).unwrap(), spec());
}

#[test]
fn merged_without_doubles() {
    let outgoing = LockSpec::new([], [connection("10.0.0.2:80", "10.0.0.1:2")]);
    assert!(!outgoing.is_empty());
    assert_eq!(spec().merge(outgoing), spec(), "the connection ends at a port that is locked as a whole");
    assert_eq!(LockSpec::default().merge(spec()), spec());
}

#[test]
fn nft_understands_it() {
    if own_namespace() {
        for spec in [spec(), LockSpec::default(), LockSpec::new([], [connection("[fe80::1]:1", "[fe80::2]:2")])] {
            nft(&ruleset(&spec), &["--check"]).unwrap();
        }
        let e = format!("{:#}", nft("table inet kup { nonsense }", &["--check"]).unwrap_err());
        assert!(e.contains("nft failed"), "{e}");
    }
}

/// Another test's signal may end a read with a timeout early (signal(7)).
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[test]
fn locked_is_silent_and_unlocked_goes_on() {
    if !own_namespace() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let mut server = listener.accept().unwrap().0;
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut buffer = [0; 1];

    lock(&LockSpec::new([address], [])).unwrap();
    lock(&LockSpec::new([address], [])).unwrap();
    server.write_all(b"x").unwrap();
    assert_eq!(read(&mut client, &mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    let refused = TcpStream::connect_timeout(&address, Duration::from_millis(200)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
    // A port that nobody listens on would answer with RST; locked, it keeps silent.
    let closed = SocketAddr::new(address.ip(), 1);
    assert_eq!(TcpStream::connect(closed).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    lock(&LockSpec::new([address, closed], [])).unwrap();
    let silent = TcpStream::connect_timeout(&closed, Duration::from_millis(200)).unwrap_err();
    assert_eq!(silent.kind(), ErrorKind::TimedOut);

    unlock().unwrap();
    unlock().unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(read(&mut client, &mut buffer).unwrap(), 1);

    // The same for a connection that is named by both its ends.
    let ends = Connection { local: client.local_addr().unwrap(), remote: address };
    lock(&LockSpec::new([], [ends])).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    server.write_all(b"y").unwrap();
    assert_eq!(read(&mut client, &mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok(), "others are left alone");
    unlock().unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!((read(&mut client, &mut buffer).unwrap(), buffer[0]), (1, b'y'));
}
