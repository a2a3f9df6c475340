//! The listening socket, taken before anything else starts: a port that is in use is an error of the first second.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::{Context, anyhow};

/// Listens. Every IPv4 address also means every IPv6 address where the machine has IPv6.
///
/// # Errors
/// The address is in use, or is not this machine's.
pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    if address.ip().is_unspecified() && address.is_ipv4() && dual_stack() {
        let both = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
        match TcpListener::bind(both) {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(in_use(address)),
            // No IPv6 here after all: IPv4 it is.
            Err(_) => {}
        }
    }
    match TcpListener::bind(address) {
        Ok(listener) => Ok(listener),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(in_use(address)),
        Err(e) => Err(e).with_context(|| format!("cannot listen on {address}: choose another address with --listen")),
    }
}

fn in_use(address: SocketAddr) -> anyhow::Error {
    anyhow!(
        "port {} is in use, perhaps by another profiler: stop that program, or choose another port with --listen {}:PORT",
        address.port(),
        address.ip()
    )
}

/// Whether an IPv6 socket on every address answers IPv4 too, as it does unless the administrator says otherwise.
fn dual_stack() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|text| text.trim() == "0")
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_taken_port_says_so_and_what_to_do() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = first.local_addr().unwrap();
        let text = format!("{:#}", bind(taken).unwrap_err());
        assert!(text.contains("is in use") && text.contains("--listen"), "{text}");
        let every = SocketAddr::from(([0, 0, 0, 0], taken.port()));
        assert!(format!("{:#}", bind(every).unwrap_err()).contains("is in use"));
    }

    #[test]
    fn every_address_answers_ipv4() {
        let listener = bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn a_foreign_address_is_an_error() {
        let text = format!("{:#}", bind("192.0.2.1:0".parse().unwrap()).unwrap_err());
        assert!(text.contains("192.0.2.1") && text.contains("--listen"), "{text}");
    }
}
