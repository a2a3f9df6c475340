//! Why a file or a blob could not be used.

/// Why [`crate::extract`] or [`crate::Unwinder::load`] refused.
#[derive(Debug, thiserror::Error)]
pub enum UnwindError {
    /// Not an ELF file, or its headers are broken.
    #[error("not a usable ELF file: {0}")]
    Elf(#[from] object::read::Error),
    /// An ELF file for another machine, or of another class or byte order.
    #[error("ELF machine {machine} is not this one")]
    Machine {
        /// `e_machine`.
        machine: u16,
    },
    /// More than a limit allows.
    #[error("{what}: {found} is above the limit of {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much was found.
        found: u64,
        /// How much is allowed.
        limit: u64,
    },
    /// The bytes given to [`crate::Unwinder::load`] are not what [`crate::extract`] makes.
    #[error("not unwind bytes of this version: {0}")]
    Blob(&'static str),
}
