//! The worker process's tools: plain delegation to the rooms that know how.

use objects::tools::{FileRef, MappedTable, Tools};
use profile::{MapEntry, ObjectId, StackEnd, SymbolName, UserFrame, UserRegisters};

/// `unwind` and `symbolizer` behind one door.
#[derive(Default)]
pub(crate) struct Workshop {
    unwinder: unwind::Unwinder,
}

impl Tools for Workshop {
    fn extract_unwind(&self, file: FileRef<'_>) -> Result<Vec<u8>, String> {
        unwind::extract(file, &unwind::Limits::default()).map_err(|e| e.to_string())
    }

    fn extract_debug(&self, file: FileRef<'_>) -> Result<Vec<u8>, String> {
        unwind::extract_debug(file, &unwind::Limits::default()).map_err(|e| e.to_string())
    }

    fn compile_walk(&self, unwind: Vec<u8>, debug: Option<Vec<u8>>) -> Result<Vec<u8>, String> {
        Ok(unwind::compile(unwind, debug).map_err(|e| e.to_string())?.table.to_bytes())
    }

    fn extract_symbols(&self, file: FileRef<'_>) -> Result<Vec<u8>, String> {
        symbolizer::table::extract(file, &symbolizer::table::Limits::default()).map_err(|e| e.to_string())
    }

    fn load_unwind(&mut self, object: ObjectId, bytes: MappedTable) -> Result<(), String> {
        self.unwinder.load(object, bytes).map_err(|e| e.to_string())
    }

    fn forget(&mut self, object: ObjectId) {
        self.unwinder.forget(object);
    }

    fn unwind(
        &mut self,
        maps: &[MapEntry],
        registers: &UserRegisters,
        stack: &[u8],
        frames: &mut Vec<UserFrame>,
    ) -> StackEnd {
        self.unwinder.unwind(maps, registers, stack, frames)
    }

    fn name(&self, symbols: &[u8], address: u64) -> Option<SymbolName> {
        symbolizer::name(symbols, address)
    }
}

/// `profiler worker`: serves the agent that started it, until that closes the socket.
///
/// # Errors
/// It was not started by an agent, or the socket failed.
pub(crate) fn run() -> anyhow::Result<()> {
    Ok(objects::worker::serve(Workshop::default())?)
}
