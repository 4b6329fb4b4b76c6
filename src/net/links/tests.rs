use std::net::IpAddr;

use super::*;

const ADDRESSES: &str = r#"[
 {"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP"],"link_type":"loopback","address":"00:00:00:00:00:00",
  "addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host","label":"lo",
   "valid_life_time":4294967295,"preferred_life_time":4294967295}]},
 {"ifindex":2,"ifname":"eth0","flags":["UP"],"mtu":1500,"address":"52:54:00:00:00:01","broadcast":"ff:ff:ff:ff:ff:ff",
  "addr_info":[
   {"family":"inet","local":"10.77.0.2","prefixlen":24,"broadcast":"10.77.0.255","scope":"global","label":"eth0",
    "valid_life_time":4294967295,"preferred_life_time":4294967295},
   {"family":"inet6","local":"fd00::2","prefixlen":64,"scope":"global",
    "valid_life_time":4294967295,"preferred_life_time":4294967295}]},
 {"ifindex":3,"ifname":"eth1","flags":["UP"],"address":"52:54:00:00:00:02",
  "addr_info":[{"family":"inet","local":"10.78.0.2","prefixlen":24,"scope":"global","dynamic":true,
   "valid_life_time":3600,"preferred_life_time":3600}]},
 {"ifindex":4,"ifname":"eth2","flags":["UP"],"address":"52:54:00:00:00:03","addr_info":[
   {"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link",
    "valid_life_time":4294967295,"preferred_life_time":4294967295},
   {"family":"inet","local":"10.79.0.2","prefixlen":24,"scope":"global",
    "valid_life_time":4294967295,"preferred_life_time":4294967295}]},
 {"ifindex":6,"ifname":"none","addr_info":[]}]"#;
const V4: &str = r#"[
 {"dst":"default","gateway":"10.77.0.1","dev":"eth0","protocol":"static","metric":1024,"flags":["onlink"]},
 {"dst":"10.77.0.0/24","dev":"eth0","protocol":"kernel","scope":"link","prefsrc":"10.77.0.2","flags":[]},
 {"dst":"10.80.0.0/16","dev":"eth0","protocol":"static","scope":"link","prefsrc":"10.77.0.2","flags":[]},
 {"type":"blackhole","dst":"10.81.0.0/16","dev":"eth0","flags":[]},
 {"dst":"10.82.0.0/16","via":{"family":"inet6","host":"fd00::1"},"dev":"eth0","flags":[]},
 {"dst":"10.83.0.0/16","protocol":"static","flags":[],"nexthops":[{"gateway":"10.77.0.1","dev":"eth0","weight":1}]}]"#;
const V6: &str = r#"[{"dst":"default","gateway":"fd00::1","dev":"eth0","protocol":"static","metric":1024,"flags":[],
 "pref":"medium"}]"#;

fn read() -> Vec<Link> {
    links(ADDRESSES, V4, V6, &|index| index != 1).unwrap()
}

#[test]
fn static_addresses_and_plain_routes_are_put_back() {
    let links = read();
    assert_eq!(links.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["eth0", "eth2"]);
    assert_eq!(links[0].mac, "52:54:00:00:00:01");
    assert_eq!(
        links[0].batch,
        [
            "link set dev eth0 addrgenmode none",
            "link set dev eth0 up",
            "address replace 10.77.0.2/24 dev eth0 scope global broadcast 10.77.0.255",
            "address replace fd00::2/64 dev eth0 scope global nodad",
            "route replace 10.80.0.0/16 dev eth0 proto static scope link src 10.77.0.2",
            "route replace default via 10.77.0.1 dev eth0 proto static metric 1024 onlink",
            "route replace ::/0 via fd00::1 dev eth0 proto static metric 1024",
        ]
    );
    assert_eq!(
        links[1].batch,
        ["link set dev eth2 up", "address replace 10.79.0.2/24 dev eth2 scope global"],
        "the kernel makes its link-local address"
    );
}

#[test]
fn only_what_networkd_has_configured() {
    assert_eq!(links(ADDRESSES, V4, V6, &|_| false).unwrap(), []);
    assert!(is_managed("# private\nADMIN_STATE=configured\nOPER_STATE=routable\n"));
    for state in ["", "ADMIN_STATE=unmanaged\n", "OPER_STATE=configured\n", "ADMIN_STATE=configuring\n"] {
        assert!(!is_managed(state), "{state}");
    }
}

#[test]
fn what_makes_no_sense_is_an_error() {
    assert!(links("eth0: up", "", "", &|_| true).is_err());
    assert!(links(ADDRESSES, "{}", "", &|_| true).is_err());
    assert_eq!(links("", "", "", &|_| true).unwrap(), []);
}

#[test]
fn it_is_read_as_it_was_written() {
    let written = serde_json::to_vec(&read()).unwrap();
    assert_eq!(serde_json::from_slice::<Vec<Link>>(&written).unwrap(), read());
}

#[test]
fn a_link_that_comes_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::below(root.path());
    let class = root.path().join("sys/class/net");
    fs::create_dir_all(class.join("eth0")).unwrap();
    let later = std::thread::spawn(move || {
        sleep(Duration::from_millis(50));
        fs::create_dir(class.join("eth2")).unwrap();
    });
    wait(&paths, &read(), Duration::from_secs(60));
    assert!(root.path().join("sys/class/net/eth2").exists());
    later.join().unwrap();
    fs::remove_dir(root.path().join("sys/class/net/eth0")).unwrap();
    wait(&paths, &read(), Duration::from_millis(50));
}

/// A link in a namespace of its own, put back and looked at again.
#[test]
fn there_and_back() {
    std::thread::spawn(|| {
        if !crate::net::own_namespace() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let mac = "52:54:00:00:00:01";
        ip(&["-batch", "-"], &format!("link add eth0 address {mac} type veth peer name peer\nlink set peer up\n"))
            .unwrap();
        let eth0 = || {
            let shown: Vec<Shown> = parse(&ip(&["-j", "address"], "").unwrap()).unwrap();
            shown.into_iter().find(|s| s.ifname == "eth0").unwrap().ifindex
        };
        let saved = links(ADDRESSES, V4, V6, &|index| index == 2).unwrap();
        let elsewhere = Link { mac: "52:54:00:00:00:09".into(), ..saved[0].clone() };
        put_back(&paths, &[elsewhere]).unwrap();
        assert_eq!(look(&paths).unwrap(), [], "another card of the same name is left alone");
        put_back(&paths, &saved).unwrap();
        let states = root.path().join("run/systemd/netif/links");
        fs::create_dir_all(&states).unwrap();
        fs::write(states.join(eth0().to_string()), "ADMIN_STATE=configured\n").unwrap();
        assert_eq!(look(&paths).unwrap(), [], "somebody has made it, and will again");
        fs::create_dir_all(root.path().join("sys/class/net/eth0/device")).unwrap();
        let again = look(&paths).unwrap();
        let sorted = |link: &Link| link.batch.iter().cloned().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(sorted(&again[0]), sorted(&saved[0]));
        let wanted = ["10.77.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let missing = crate::net::addresses::wait(&wanted, std::time::Duration::from_secs(5)).unwrap();
        assert_eq!(missing, [] as [IpAddr; 0], "usable at once");
        put_back(&paths, &[Link { batch: vec!["nonsense".into()], ..saved[0].clone() }]).unwrap();
    })
    .join()
    .unwrap();
}
