//! Tables of files that were written for this, against what their sections say.

use gimli::write::{
    CallFrameInstruction, CommonInformationEntry, EhFrame, EndianVec, Expression, FrameDescriptionEntry, FrameTable,
};
use gimli::{AArch64, Encoding, Format, LittleEndian, Register, X86_64 as X86};
use profile::Segment;
use proptest::prelude::*;
use unwind_table::{Aarch64, Arena, End, Kind as Row, LocalShards, Slot, Snapshot, Walk, X86_64, step};

use super::*;
use crate::blob::{Part, RootFunction, Section};
use crate::cfi::{self, Cfi};

const BIAS: u64 = 0x5555_0000_0000;
const STACK: u64 = 0x7fff_0000_0000;
const CODE: Range<u64> = 0x1000..0x2_0000;

fn encoding() -> Encoding {
    Encoding { format: Format::Dwarf32, version: 1, address_size: 8 }
}

/// A blob of one section.
fn blob(bytes: Vec<u8>) -> Blob {
    let segment =
        Segment { elf_address: CODE.start, file_offset: 0, file_bytes: CODE.end - CODE.start, executable: true };
    let mut blob = Blob { segments: vec![segment], ..Blob::default() };
    let mut section = Section { address: 0x10_0000, bytes: Part::all(bytes), index: Part::default() };
    if let Some(index) = cfi::build_index(Kind::EhFrame, &blob, &section) {
        section.index = Part::all(index.bytes);
        blob.eh_frame = Some(section);
    }
    blob
}

fn written(cie: CommonInformationEntry, functions: Vec<FrameDescriptionEntry>) -> Blob {
    let mut table = FrameTable::default();
    let id = table.add_cie(cie);
    functions.into_iter().for_each(|function| table.add_fde(id, function));
    let mut out = EhFrame(EndianVec::new(LittleEndian));
    table.write_eh_frame(&mut out).unwrap();
    blob(out.0.into_vec())
}

fn function(start: u64, bytes: u32, instructions: Vec<(u32, CallFrameInstruction)>) -> FrameDescriptionEntry {
    let mut function = FrameDescriptionEntry::new(gimli::write::Address::Constant(start), bytes);
    instructions.into_iter().for_each(|(at, instruction)| function.add_instruction(at, instruction));
    function
}

/// All rows of the first function.
fn rows<M: Numbers>(blob: &Blob) -> Vec<(u64, Result<Rule, Why>)> {
    let mut frames = section::Frames::new::<M>(Kind::EhFrame, blob, blob.eh_frame.as_ref().unwrap());
    let layer = Layer::of_section::<M>(Kind::EhFrame, blob, blob.eh_frame.as_ref().unwrap());
    let mut out = Vec::new();
    let (whole, _) = frames.rows::<M>(layer.pieces[0].at, &mut Context::new_in(), |at, rule| {
        out.push((at, rule));
        true
    });
    assert!(whole);
    out
}

fn x86_cie() -> CommonInformationEntry {
    let mut cie = CommonInformationEntry::new(encoding(), 1, -8, X86::RA);
    cie.add_instruction(CallFrameInstruction::Cfa(X86::RSP, 8));
    cie.add_instruction(CallFrameInstruction::Offset(X86::RA, -8));
    cie
}

#[test]
fn rows_of_arm64() {
    use CallFrameInstruction::{Cfa, CfaOffset, NegateRaState, Offset, Restore, Undefined};
    let (sp, fp, lr) = (AArch64::SP, AArch64::X29, AArch64::X30);
    let mut cie = CommonInformationEntry::new(encoding(), 4, -8, lr);
    cie.add_instruction(Cfa(sp, 0));
    let function = function(
        0x1000,
        64,
        vec![
            (4, NegateRaState),
            (8, CfaOffset(48)),
            (8, Offset(fp, -48)),
            (8, Offset(lr, -40)),
            (12, Cfa(fp, 48)),
            (40, Cfa(sp, 0)),
            (40, Restore(fp)),
            (40, Restore(lr)),
            (48, Undefined(lr)),
        ],
    );
    let rule = |kind, offset, fp, ra| Ok(Rule::new(kind, offset, fp, ra).unwrap());
    let got = rows::<Aarch64>(&written(cie, vec![function]));
    let want = vec![
        (0x1000, rule(Row::SP, 0, Slot::Kept, None)),
        (0x1004, rule(Row::SP, 0, Slot::Kept, None)),
        (0x1008, rule(Row::SP, 48, Slot::Cfa(-48), Some(-40))),
        (0x100c, rule(Row::FP, 48, Slot::Cfa(-48), Some(-40))),
        (0x1028, rule(Row::SP, 0, Slot::Kept, None)),
        (0x1030, Ok(Rule::END)),
    ];
    assert_eq!(got, want);
}

#[test]
fn rows_of_x86_64() {
    use CallFrameInstruction::{Cfa, CfaExpression, CfaOffset, Offset, Undefined};
    let mut plt = Expression::new();
    plt.op_breg(X86::RSP, 8);
    plt.op_breg(X86::RA, 0);
    plt.op_constu(15);
    plt.op(gimli::DW_OP_and);
    plt.op_constu(11);
    plt.op(gimli::DW_OP_ge);
    plt.op_constu(3);
    plt.op(gimli::DW_OP_shl);
    plt.op(gimli::DW_OP_plus);
    let deref = |register: Register, offset: i64, plus: u64| {
        let mut expression = Expression::new();
        expression.op_breg(register, offset);
        expression.op_deref();
        if plus > 0 {
            expression.op_plus_uconst(plus);
        }
        expression
    };
    let mut own = Expression::new();
    own.op_breg(X86::RBP, 0);
    let mut odd = Expression::new();
    odd.op_breg(X86::RSP, 0);
    odd.op(gimli::DW_OP_neg);
    let function = function(
        0x1000,
        200,
        vec![
            (1, CfaOffset(16)),
            (1, Offset(X86::RBP, -16)),
            (4, Cfa(X86::RBP, 16)),
            // Popped: the slot lies below the stack pointer.
            (9, Cfa(X86::RSP, 8)),
            (10, CfaExpression(deref(X86::RSP, 200, 8))),
            (20, CallFrameInstruction::Expression(X86::RBP, own)),
            (20, CfaExpression(deref(X86::RBP, -8, 0))),
            (30, Cfa(X86::R10, 0)),
            (31, CfaExpression(odd)),
            (32, Cfa(X86::RSP, 16 << 20)),
            (40, CallFrameInstruction::SameValue(X86::RBP)),
            (40, CfaExpression(plt)),
            (50, Undefined(X86::RA)),
        ],
    );
    let rule = |kind, offset, fp| Ok(Rule::new(kind, offset, fp, Some(-8)).unwrap());
    let got = rows::<X86_64>(&written(x86_cie(), vec![function]));
    let want = vec![
        (0x1000, rule(Row::SP, 8, Slot::Kept)),
        (0x1001, rule(Row::SP, 16, Slot::Cfa(-16))),
        (0x1004, rule(Row::FP, 16, Slot::Cfa(-16))),
        (0x1009, rule(Row::SP, 8, Slot::Kept)),
        (0x100a, Ok(Rule::deref(Row::SP_DEREF, 200, 8, Slot::Cfa(-16)).unwrap())),
        (0x1014, Ok(Rule::deref(Row::FP_DEREF, -8, 0, Slot::Fp(0)).unwrap())),
        (0x101e, Ok(Rule::register(10, 0, Slot::Fp(0)).unwrap())),
        (0x101f, Err(Why::Expression)),
        (0x1020, Err(Why::Number)),
        (0x1028, Ok(Rule::plt(8, 11).unwrap())),
        (0x1032, Ok(Rule::END)),
    ];
    assert_eq!(got, want);
}

/// Where a table leads from an address: the end, and the frame's size.
struct Compiling {
    shards: LocalShards,
    mappings: (unwind_table::Place, u32),
}

impl Compiling {
    fn of(compiled: &Compiled) -> Self {
        let (mut shards, mut arena) = (LocalShards::new(), Arena::new(64));
        let placed = arena.load(1, &compiled.table, 0, &mut shards).unwrap();
        let mapping = placed.mapping(BIAS, BIAS + (1 << 20), BIAS);
        let mappings = arena.place_mappings(&[mapping], &mut shards).unwrap();
        Self { shards, mappings }
    }

    fn at(&self, address: u64) -> (End, u64) {
        let mut walk = Walk::default();
        walk.begin([BIAS + address, STACK, 0, 0], self.mappings.0.0, self.mappings.1, 8);
        let stack = [7; 4096];
        let end = step::<X86_64, _>(&mut walk, &mut Snapshot::new(&self.shards, STACK, &stack));
        (end, walk.sp - STACK)
    }
}

#[test]
fn layers_tell_in_their_order() {
    let frame = |start, bytes, size| function(start, bytes, vec![(4, CallFrameInstruction::CfaOffset(size))]);
    let mut blob = written(x86_cie(), vec![frame(0x1000, 0x100, 32), frame(0x1200, 0x88, 48), frame(0x1290, 0x70, 64)]);
    blob.roots.push(RootFunction { range: 0x1010..0x1020, always: true });
    blob.roots.push(RootFunction { range: 0x10f0..0x1110, always: false });
    blob.restorers.push(0x1250);
    let mut go = Vec::new();
    for (start, distance) in [(0x1180u32, 24u32), (0x1190, u32::MAX), (0x11c0, 56), (0x1200, u32::MAX)] {
        go.extend_from_slice(&start.to_le_bytes());
        go.extend_from_slice(&distance.to_le_bytes());
    }
    blob.distances = Part::all(go);
    let compiled = compile_blob::<X86_64>(&blob, None, 9);
    assert_eq!((compiled.functions, compiled.unsupported.clone()), (3, Unsupported::default()));
    let tables = Compiling::of(&compiled);
    let frame = |bytes| (End::GOING_ON, bytes);
    for (address, want) in [
        (0x1000, frame(8)),
        (0x1004, frame(32)),
        (0x1010, (End::ROOT, 0)),
        (0x101f, (End::ROOT, 0)),
        (0x1020, frame(32)),
        (0x10ff, frame(32)),
        (0x1100, (End::ROOT, 0)),
        (0x1110, (End::NO_TABLE, 0)),
        // Go's table tells where code would be; none is there.
        (0x1180, (End::NO_TABLE, 0)),
        (0x1200, frame(8)),
        (0x1280, frame(48)),
        (0x1287, frame(48)),
        // Padding.
        (0x128f, frame(48)),
        (0x1290, frame(8)),
        (0x1300, (End::NO_TABLE, 0)),
        (0x1_f000, (End::NO_TABLE, 0)),
    ] {
        assert_eq!(tables.at(address), want, "{address:#x}");
    }
    // The restorer's frame: the registers that the kernel saved, here all the same bytes.
    let walked = tables.at(0x1250);
    assert_eq!((walked.0, tables.at(0x124f).0, tables.at(0x1258).0), (End::GOING_ON, End::GOING_ON, End::GOING_ON));
    assert!(walked.1 > 1 << 32 && tables.at(0x1259).1 == 48 && tables.at(0x124e).1 == 48);
}

#[test]
fn a_debug_file_fills_what_the_file_does_not_tell() {
    let frame = |start, bytes, size| function(start, bytes, vec![(0, CallFrameInstruction::CfaOffset(size))]);
    let file = written(x86_cie(), vec![frame(0x1100, 0x40, 32)]);
    let mut debug = written(x86_cie(), vec![frame(0x1000, 0x200, 48), frame(0x1300, 0x40, 64)]);
    // What the debug file has of `.eh_frame` is the file's own; as `.debug_frame` the same entries would be.
    let mut table = FrameTable::default();
    let mut cie = x86_cie();
    cie.lsda_encoding = None;
    let id = table.add_cie(cie);
    table.add_fde(id, frame(0x1000, 0x200, 48));
    table.add_fde(id, frame(0x1300, 0x40, 64));
    let mut out = gimli::write::DebugFrame(EndianVec::new(LittleEndian));
    table.write_debug_frame(&mut out).unwrap();
    let mut section = Section { address: 0, bytes: Part::all(out.0.into_vec()), index: Part::default() };
    section.index = Part::all(cfi::build_index(Kind::DebugFrame, &debug, &section).unwrap().bytes);
    (debug.eh_frame, debug.debug_frame) = (None, Some(section));
    let tables = Compiling::of(&compile_blob::<X86_64>(&file, Some(&debug), 9));
    for (address, size) in [(0x1000, 48), (0x10ff, 48), (0x1100, 32), (0x113f, 32), (0x1140, 48), (0x1300, 64)] {
        assert_eq!(tables.at(address), (End::GOING_ON, size), "{address:#x}");
    }
    assert_eq!(tables.at(0x1200).0, End::NO_TABLE);
}

/// Functions as bytes, so that they may be wrong in every way: (start, bytes, frame).
fn section(functions: &[(u64, u64, u8)]) -> Vec<u8> {
    let mut out = Vec::new();
    let entry = |out: &mut Vec<u8>, body: &[u8]| {
        out.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
        out.extend_from_slice(body);
    };
    entry(&mut out, b"\0\0\0\0\x01zR\0\x01\x78\x10\x01\x00\x0c\x07\x08\x90\x01\0\0");
    for &(start, bytes, frame) in functions {
        let mut body = u32::try_from(out.len() + 4).unwrap().to_le_bytes().to_vec();
        body.extend_from_slice(&start.to_le_bytes());
        body.extend_from_slice(&bytes.to_le_bytes());
        body.extend_from_slice(&[0, 0x42, 0x0e, frame, 0x44, 0x0e, 8, 0]);
        entry(&mut out, &body);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn crossing_nested_and_empty_functions(
        functions in proptest::collection::vec((0u64..0x400, prop_oneof![9 => 0u64..0x60, 1 => 0u64..0x800, 1 => any::<u64>()], 2u8..15), 0..40),
    ) {
        let functions: Vec<_> = functions.into_iter().map(|(start, bytes, frame)| (0x1000 + start, bytes, frame * 8)).collect();
        let blob = blob(section(&functions));
        let tables = Compiling::of(&compile_blob::<X86_64>(&blob, None, 9));
        let mut cfi = Cfi::default();
        for address in 0x1000..0x1c00 {
            let registers = profile::UserRegisters { pc: address, sp: STACK, fp: 0, lr: 0 };
            struct Sevens;
            impl crate::expression::Memory for Sevens {
                fn read(&mut self, _: u64) -> Result<u64, crate::expression::Miss> {
                    Ok(7)
                }
            }
            let want = cfi.evaluate(&blob, address, &registers, &mut Sevens).map(|caller| caller.unwrap().sp - STACK);
            let got = tables.at(address);
            // Between functions nothing runs: a few bytes may belong to the one before.
            let padding = want.is_none() && functions.iter().any(|f| f.0 > address && f.0 - address < 16 && f.0 % 16 == 0);
            if !padding {
                prop_assert_eq!(got, want.map_or((End::NO_TABLE, 0), |bytes| (End::GOING_ON, bytes)), "{:#x}", address);
            }
        }
    }

    #[test]
    fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0usize..400) {
        let mut all = section(&[(0x1000, 0x100, 16), (0x1200, 0x100, 24), (0x1400, 0x100, 32)]);
        let at = at.min(all.len());
        all.truncate(at);
        all.extend(bytes);
        let blob = blob(all);
        compile_blob::<X86_64>(&blob, None, 9);
        compile_blob::<Aarch64>(&blob, None, 8);
    }
}

/// Many entries that share one long common entry, and one long function that is cut into many visible pieces: what is read
/// is bounded.
#[test]
fn files_made_to_be_slow() {
    let start = std::time::Instant::now();
    let many: Vec<_> = (0..200_000u64).map(|i| (0x1000 + i % 90_000, 1 + i % 7, 16)).collect();
    let blob = blob(section(&many));
    let compiled = compile_blob::<X86_64>(&blob, None, 9);
    assert!(compiled.functions > 80_000, "{}", compiled.functions);
    let mut long = b"\0\0\0\0\x01zR\0\x01\x78\x10\x01\x00\x0c\x07\x08\x90\x01".to_vec();
    long.resize(4000, 0);
    let mut bytes = u32::try_from(long.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend_from_slice(&long);
    for i in 0..60_000u64 {
        let back = u32::try_from(bytes.len() + 4).unwrap();
        bytes.extend_from_slice(&24u32.to_le_bytes());
        bytes.extend_from_slice(&back.to_le_bytes());
        bytes.extend_from_slice(&(0x1000 + i * 2).to_le_bytes());
        bytes.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    let compiled = compile_blob::<X86_64>(&self::blob(bytes), None, 9);
    assert!(compiled.unsupported.work > 0, "{:?}", compiled.unsupported);
    assert!(start.elapsed() < std::time::Duration::from_secs(60), "{:?}", start.elapsed());
}
