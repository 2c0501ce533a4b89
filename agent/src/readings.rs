//! The kernel's own counters, read from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use tuplelab_domain::sample::Readings;

/// The counters of the calling thread's network namespace, and the host's memory, now. What a host
/// does not show is absent. `sockstat.TCP.alloc`, `orphan` and `mem` (in pages) are of the whole
/// host and not of the namespace: so the kernel has it (`net/ipv4/proc.c`).
pub fn readings() -> Readings {
    let mut all = BTreeMap::new();
    // "thread-self", because "/proc/net" is the namespace of the process's first thread.
    for name in ["netstat", "snmp"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        all.extend(paired_lines(&text, &["Tcp", "TcpExt"]));
    }
    for name in ["sockstat", "sockstat6"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        all.extend(sockstat(name, &text));
    }
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    for name in ["MemAvailable", "Slab", "SReclaimable", "SUnreclaim"] {
        if let Some(bytes) = meminfo(&text, name) {
            all.insert(format!("meminfo.{name}"), bytes);
        }
    }
    for name in ["count", "max"] {
        let text = fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
        if let Some(value) = text.ok().and_then(|text| text.trim().parse().ok()) {
            all.insert(format!("conntrack.{name}"), value);
        }
    }
    Readings(all)
}

/// Tables as in `/proc/net/snmp`: a line of names, then a line of values. A value below zero
/// (`MaxConn` is -1: no bound) is no count and left out.
fn paired_lines(text: &str, tables: &[&str]) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let (Some((table, names)), Some((same, values))) = (names.split_once(':'), values.split_once(':'))
        else {
            break;
        };
        if table != same {
            break;
        }
        if tables.contains(&table) {
            let pairs = names.split_whitespace().zip(values.split_whitespace());
            found.extend(
                pairs.filter_map(|(name, value)| Some((format!("{table}.{name}"), value.parse().ok()?))),
            );
        }
    }
    found
}

/// Tables as in `/proc/net/sockstat`: a line each, names and values in turn.
fn sockstat(file: &str, text: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for (table, line) in text.lines().filter_map(|line| line.split_once(':')) {
        let mut words = line.split_whitespace();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            if let Ok(value) = value.parse() {
                found.push((format!("{file}.{table}.{name}"), value));
            }
        }
    }
    found
}

/// A line of `/proc/meminfo`, in bytes.
pub(crate) fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{connect, listen};

    #[test]
    fn only_the_tcp_tables_are_read_and_values_stand_under_their_names() {
        let text = "Ip: Forwarding DefaultTTL\nIp: 1 64\n\
                    Tcp: RtoMin MaxConn ActiveOpens EstabResets\nTcp: 200 -1 16 5\n\
                    Udp: InDatagrams\nUdp: 9\n";
        let expected = [("Tcp.RtoMin", 200), ("Tcp.ActiveOpens", 16), ("Tcp.EstabResets", 5)];
        assert_eq!(paired_lines(text, &["Tcp", "TcpExt"]), expected.map(|(k, v)| (k.to_owned(), v)));
        let text = "TcpExt: TW ListenOverflows\nTcpExt: 10 3\nIpExt: InOctets\nIpExt: 12\n";
        let expected = [("TcpExt.TW", 10), ("TcpExt.ListenOverflows", 3)];
        assert_eq!(paired_lines(text, &["Tcp", "TcpExt"]), expected.map(|(k, v)| (k.to_owned(), v)));
    }

    #[test]
    fn torn_or_odd_tables_give_nothing_instead_of_wrong_names() {
        for text in ["", "Tcp: A", "Tcp A\nTcp 1", "Tcp: A\nUdp: 1\n", "Tcp: A\nTcp: x\n"] {
            assert!(paired_lines(text, &["Tcp"]).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn sockstat_names_carry_their_file_and_table() {
        let text = "sockets: used 28\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 336\nFRAG: inuse\n";
        let found: BTreeMap<_, _> = sockstat("sockstat", text).into_iter().collect();
        assert_eq!(found.get("sockstat.sockets.used"), Some(&28));
        assert_eq!(found.get("sockstat.TCP.mem"), Some(&336));
        assert_eq!(found.get("sockstat.FRAG.inuse"), None);
        assert_eq!(sockstat("sockstat6", "TCP6: inuse 7\n"), [("sockstat6.TCP6.inuse".to_owned(), 7)]);
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "MemTotal:       24653804 kB\nMemAvailable:   23936652 kB\nHugePages_Total:       0\n";
        assert_eq!(meminfo(text, "MemAvailable"), Some(23936652 * 1024));
        assert_eq!(meminfo(text, "Mem"), None);
        assert_eq!(meminfo(text, "HugePages_Total"), None);
    }

    #[test]
    fn a_connection_more_is_an_active_open_more() {
        let before = readings();
        let listener = listen("127.66.30.1:0");
        let _client = connect("127.66.30.2:0", listener.local_addr().expect("bound"));
        let moved = readings().since(&before);
        assert!(moved.get("Tcp.ActiveOpens").is_some_and(|more| *more >= 1), "{moved:?}");
        for name in ["TcpExt.ListenOverflows", "sockstat.TCP.inuse", "meminfo.MemAvailable"] {
            assert!(before.get(name).is_some(), "{name}");
        }
    }
}
