//! Listening on TCP.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

/// Binds a non-blocking listener, ready for tokio or `axum_server::from_tcp`.
///
/// `[::]` means every address of both families. On a host without IPv6 it falls back to `0.0.0.0`, so that one default works in all
/// clusters.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).or_else(|error| {
        if address.is_ipv6() && address.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        } else {
            Err(error)
        }
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
