//! The HTTP client of the tests. All that it asks is on this machine, without TLS; but it wants to know by whose
//! cryptography TLS would be done before it does anything.

use std::time::Duration;

use anyhow::Result;
use reqwest::blocking::Client;

/// A client whose requests end after `timeout`. Each has a connection of its own: a server may close one that was idle at the
/// very moment at which it is used again.
///
/// # Errors
/// None that is known.
pub fn client(timeout: Duration) -> Result<Client> {
    // An error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder().timeout(timeout).pool_max_idle_per_host(0).build()?)
}
