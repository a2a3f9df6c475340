//! Names for addresses, from the worker.
//!
//! **In**: ELF addresses. **Out**: names (checked by the client). **Limits**: [`MAX_NAMES`] addresses a request;
//! tables on which the worker fails twice are not used again (`quarantined`), and their addresses have no names.

use profile::{ElfAddress, ObjectId, SymbolName};

use crate::Objects;
use crate::client::{Client, Fault};
use crate::counters::count;
use crate::held::Part;
use crate::protocol::MAX_NAMES;
use crate::reading::Loaded;

/// Workers that one request may cost, those included that end by themselves.
const MAX_ATTEMPTS: u32 = 4;

impl Objects {
    /// Names addresses of one object: one answer for each, in order.
    #[must_use]
    pub fn names(&self, object: ObjectId, addresses: &[ElfAddress]) -> Vec<Option<SymbolName>> {
        let mut names = Vec::with_capacity(addresses.len());
        if !addresses.is_empty() && self.registry().has(object, Part::Symbols) {
            let mut client = self.client();
            for addresses in addresses.chunks(MAX_NAMES) {
                let addresses: Vec<u64> = addresses.iter().map(|address| address.0).collect();
                let Some(some) = self.some_names(&mut client, object, &addresses) else { break };
                names.extend(some);
            }
        }
        names.resize(addresses.len(), None);
        names
    }

    /// Names as many addresses as fit a request; if the worker dies on it, once more.
    fn some_names(&self, client: &mut Client, object: ObjectId, addresses: &[u64]) -> Option<Vec<Option<SymbolName>>> {
        for _ in 0..MAX_ATTEMPTS {
            if client.begin().is_err() {
                break;
            }
            if self.load(client, object, Part::Symbols) != Loaded::Yes {
                return None;
            }
            match client.names(object, addresses) {
                Ok(names) => {
                    self.registry().forgive(object);
                    return Some(names);
                }
                Err(Fault::Worker(_)) => {
                    if self.strike(object) {
                        break;
                    }
                }
                Err(Fault::Gone) => {}
                Err(Fault::NoWorker | Fault::Refused(_)) => break,
            }
        }
        count(&self.counters.worker_failed_requests);
        None
    }
}
