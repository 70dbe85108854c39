//! Connections of other processes of this machine, as the kernel lists them. Where it lists none
//! (not Linux) there are none.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// The state of a connection that is open on both sides, in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// A connection that another process holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PeerConnection {
    /// `/proc/71/fd/5`.
    descriptor: PathBuf,
    /// `socket:[4711]`, what the descriptor stands for while it is open.
    socket: PathBuf,
}

impl PeerConnection {
    /// Whether its process has not closed it. One look at one link: the kernel's table takes it 10
    /// ms and more.
    pub(super) fn is_open(&self) -> bool {
        fs::read_link(&self.descriptor).is_ok_and(|socket| socket == self.socket)
    }
}

/// Open connections of other processes to a port.
pub(super) fn of_others(port: u16) -> Vec<PeerConnection> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets: BTreeSet<PathBuf> =
        tables.iter().flat_map(|table| open_to(table, port)).map(|inode| format!("socket:[{inode}]").into()).collect();
    let is_other = |name: &str| name.parse::<u32>().is_ok_and(|id| id != std::process::id());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter(|entry| entry.file_name().to_str().is_some_and(is_other));
    // Another user's folder cannot be read.
    let descriptors = processes.filter_map(|process| fs::read_dir(process.path().join("fd")).ok()).flatten().flatten();
    descriptors
        .filter_map(|entry| {
            let socket = fs::read_link(entry.path()).ok()?;
            sockets.contains(&socket).then(|| PeerConnection { descriptor: entry.path(), socket })
        })
        .collect()
}

/// The inodes of the clients' ends of open connections to a port, out of a table of the kernel.
fn open_to(table: &str, port: u16) -> impl Iterator<Item = u64> {
    // sl, local_address, rem_address, st, tx:rx, tr:when, retrnsmt, uid, timeout, inode
    // (Documentation/networking/proc_net_tcp).
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().take(10).collect();
        let (_, to) = fields.get(2)?.rsplit_once(':')?;
        let leads_there = u16::from_str_radix(to, 16) == Ok(port) && *fields.get(3)? == ESTABLISHED;
        leads_there.then(|| fields.get(9)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;

    use super::{of_others, open_to};

    /// A shell connects and is killed: its connection is seen, and seen to be closed; one of this
    /// process is not listed.
    #[test]
    fn another_process_s_connection_is_seen_until_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(of_others(port), []);
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; read -u 3");
        let mut shell = Command::new("bash").args(["-c", &script]).spawn().unwrap();
        let accepted = [listener.accept().unwrap(), listener.accept().unwrap()];
        let seen = of_others(port);
        assert!(seen.len() == 1 && seen[0].is_open(), "{seen:?}");
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(!seen[0].is_open(), "{seen:?}");
        assert_eq!(of_others(port), []);
        drop((own, accepted));
    }

    #[test]
    fn the_open_ends_of_clients_are_read_out_of_the_kernel_s_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:4817 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0\n\
            1: 0100007F:4817 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0 20 4 30 10 -1\n\
            2: 0100007F:9C40 0100007F:4817 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0 20 4 30 10 -1\n\
            3: 0100007F:9C42 0100007F:4817 04 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1\n";
        assert_eq!(open_to(table, 0x4817).collect::<Vec<_>>(), [13]);
    }
}
