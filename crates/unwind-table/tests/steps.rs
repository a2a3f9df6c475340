//! Each rule by itself, on both machines, and walks over anything.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, outside of test functions")]

use proptest::prelude::*;
use unwind_table::{
    Aarch64, Arch, Arena, Builder, End, FLAG_EXACT, FLAG_LEAF_REGISTERS, Kind, LocalShards, MAX_FRAMES, MAX_SIGNALS,
    Mapping, Place, Rule, Shards, Slot, Snapshot, Walk, X86_64, step,
};

const CODE: u64 = 0x5555_0000_0000;
const STACK: u64 = 0x7fff_0000_0000;

/// Code where each 256 bytes have one rule.
struct Code {
    shards: LocalShards,
    mappings: (Place, u32),
}

impl Code {
    fn of(rules: &[Rule]) -> Self {
        let end = (rules.len() as u64 + 1) * 256;
        let mut builder = Builder::new(0, 0..end);
        rules.iter().zip(1u64..).for_each(|(&rule, i)| builder.push(i * 256, rule));
        let (mut shards, mut arena) = (LocalShards::new(), Arena::new(1));
        let placed = arena.load(1, &builder.finish().0, 0, &mut shards).unwrap();
        let maps = [
            placed.mapping(CODE, CODE + end.next_multiple_of(4096), CODE),
            Mapping::without_table(CODE + 0x10_0000, CODE + 0x11_0000),
            Mapping::pending(CODE + 0x20_0000, CODE + 0x21_0000),
        ];
        let mappings = arena.place_mappings(&maps, &mut shards).unwrap();
        Self { shards, mappings }
    }

    /// A pc under the rule with this number.
    fn pc(rule: u64) -> u64 {
        CODE + (rule + 1) * 256 + 16
    }

    fn walk<A: Arch>(&self, registers: [u64; 4], stack: &[u64]) -> (Walk, End) {
        let bytes: Vec<u8> = stack.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut memory = Snapshot::new(&self.shards, STACK, &bytes);
        let mut walk = Walk::default();
        walk.begin(registers, self.mappings.0.0, self.mappings.1, MAX_FRAMES);
        for _ in 0..=MAX_FRAMES {
            let end = step::<A, _>(&mut walk, &mut memory);
            if end != End::GOING_ON {
                return (walk, end);
            }
        }
        panic!("the walk does not end");
    }

    /// One step.
    fn step<A: Arch>(&self, registers: [u64; 4], stack: &[u64]) -> (Walk, End) {
        let bytes: Vec<u8> = stack.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut walk = Walk::default();
        walk.begin(registers, self.mappings.0.0, self.mappings.1, MAX_FRAMES);
        let end = step::<A, _>(&mut walk, &mut Snapshot::new(&self.shards, STACK, &bytes));
        (walk, end)
    }
}

fn sp(offset: i64, fp: Slot) -> Rule {
    Rule::new(Kind::SP, offset, fp, Some(-8)).unwrap()
}

/// Checks one step: the caller's pc, sp and fp.
fn check<A: Arch>(rule: Rule, registers: [u64; 4], stack: &[u64], want: [u64; 3]) {
    let code = Code::of(&[rule, rule]);
    let (walk, end) = code.step::<A>(registers, stack);
    assert_eq!(end, End::GOING_ON, "{rule:?}");
    assert_eq!([walk.pc, walk.sp, walk.fp], want, "{rule:?}");
    assert_eq!(walk.stack(), [registers[0]], "{rule:?}");
}

#[test]
fn rules_of_x86_64() {
    let (pc, ra) = (Code::pc(0), Code::pc(1));
    let at = |words: u64| STACK + words * 8;
    let mut stack: Vec<u64> = (100..120).collect();
    stack[3] = ra;
    let sp_only = [pc, STACK, 7, 0];
    check::<X86_64>(sp(32, Slot::Kept), sp_only, &stack, [ra, at(4), 7]);
    check::<X86_64>(sp(32, Slot::Cfa(-16)), sp_only, &stack, [ra, at(4), 102]);
    let with_fp = [pc, STACK, at(2), 0];
    let by_fp = Rule::new(Kind::FP, 16, Slot::Cfa(-16), Some(-8)).unwrap();
    check::<X86_64>(by_fp, with_fp, &stack, [ra, at(4), 102]);
    // A PLT entry, before its push and behind it.
    let plt = Rule::plt(24, 11).unwrap();
    check::<X86_64>(plt, [pc | 11, STACK, 7, 0], &stack, [ra, at(4), 7]);
    stack[2] = ra;
    check::<X86_64>(plt, [pc | 10, STACK, 7, 0], &stack, [ra, at(3), 7]);
    // A stack that was aligned: the frame's address lies below the frame pointer, whose own is at it.
    stack[1] = at(8);
    stack[7] = ra;
    let aligned = Rule::deref(Kind::FP_DEREF, -8, 0, Slot::Fp(0)).unwrap();
    check::<X86_64>(aligned, with_fp, &stack, [ra, at(8), ra]);
    // One that was exchanged: the old stack pointer lies on the new one.
    stack[1] = at(7);
    let exchanged = Rule::deref(Kind::SP_DEREF, 8, 8, Slot::Cfa(-24)).unwrap();
    check::<X86_64>(exchanged, sp_only, &stack, [ra, at(8), 105]);
    // Go's leaf, and the same where the stack has no code there: by the frame pointer.
    let leaf = Rule::new(Kind::LEAF, 64, Slot::Cfa(-16), Some(-8)).unwrap();
    check::<X86_64>(leaf, with_fp, &stack, [ra, at(8), 106]);
    stack[7] = 1;
    stack[3] = ra;
    check::<X86_64>(leaf, with_fp, &stack, [ra, at(4), ra]);
    // The same in a function that goes over to another stack.
    let switch = Rule::new(Kind::SWITCH, 64, Slot::Cfa(-16), Some(-8)).unwrap();
    check::<X86_64>(switch, with_fp, &stack, [ra, at(4), ra]);
}

#[test]
fn a_stack_that_was_left_may_lie_below() {
    let (pc, ra) = (Code::pc(0), Code::pc(1));
    let at = |words: u64| STACK + words * 8;
    let mut stack = vec![0u64; 20];
    // The stack that was left: a record whose caller has none. The one that is in use is above it.
    (stack[2], stack[3]) = (0, ra);
    let registers = [pc, at(10), at(2), 0];
    let rule = |kind| Rule::new(kind, 16, Slot::Cfa(-16), Some(-8)).unwrap();
    let (walk, end) = Code::of(&[rule(Kind::SWITCH), Rule::GAP]).walk::<X86_64>(registers, &stack);
    assert_eq!((walk.stack(), end), ([pc, ra - 1].as_slice(), End::ROOT));
    let (walk, end) = Code::of(&[rule(Kind::LEAF), Rule::GAP]).walk::<X86_64>(registers, &stack);
    assert_eq!((walk.stack(), end), ([pc].as_slice(), End::NO_TABLE));
    // Two functions that claim it of each other for ever.
    (stack[2], stack[3], stack[10], stack[11]) = (at(10), pc + 1, at(2), pc + 1);
    let (walk, end) = Code::of(&[rule(Kind::SWITCH), Rule::GAP]).walk::<X86_64>(registers, &stack);
    assert_eq!((end, walk.signals), (End::NO_TABLE, MAX_SIGNALS));
}

#[test]
fn other_registers_are_known_of_a_leaf() {
    let (pc, ra) = (Code::pc(0), Code::pc(1));
    let mut stack: Vec<u64> = (100..120).collect();
    stack[5] = ra;
    stack[4] = 9;
    let bytes: Vec<u8> = stack.iter().flat_map(|word| word.to_le_bytes()).collect();
    let rule = Rule::register(10, 8, Slot::Cfa(-16)).unwrap();
    let code = Code::of(&[rule, rule]);
    let mut walk = Walk::default();
    let mut memory = Snapshot::new(&code.shards, STACK, &bytes);
    walk.begin([pc, STACK, 3, 0], code.mappings.0.0, code.mappings.1, MAX_FRAMES);
    walk.leaf[10] = STACK + 40;
    walk.flags |= FLAG_LEAF_REGISTERS;
    assert_eq!(step::<X86_64, _>(&mut walk, &mut memory), End::GOING_ON);
    assert_eq!([walk.pc, walk.sp, walk.fp], [ra, STACK + 48, 9]);
    // Of its caller they are not, nor where nobody gave them.
    assert_eq!(step::<X86_64, _>(&mut walk, &mut memory), End::NO_TABLE);
    assert_eq!(code.walk::<X86_64>([pc, STACK, 3, 0], &stack).1, End::NO_TABLE);
}

#[test]
fn rules_of_arm64() {
    let (pc, ra) = (Code::pc(0), Code::pc(1));
    let signed = ra | 0x00ab_0000_0000_0000;
    let at = |words: u64| STACK + words * 8;
    let mut stack: Vec<u64> = (100..120).collect();
    // A leaf: the address is in its register, signed.
    let leaf = Rule::new(Kind::SP, 0, Slot::Kept, None).unwrap();
    check::<Aarch64>(leaf, [pc, STACK, 7, signed], &stack, [ra, STACK, 7]);
    let leaf = Rule::new(Kind::SP, 32, Slot::Kept, None).unwrap();
    check::<Aarch64>(leaf, [pc, STACK, 7, ra], &stack, [ra, at(4), 7]);
    // A frame record at its bottom: x29 and x30 at the stack pointer, the frame above them.
    stack[0] = at(9);
    stack[1] = signed;
    let record = Rule::new(Kind::SP, 64, Slot::Cfa(-64), Some(-56)).unwrap();
    check::<Aarch64>(record, [pc, STACK, STACK, 0], &stack, [ra, at(8), at(9)]);
    let by_fp = Rule::new(Kind::FP, 64, Slot::Cfa(-64), Some(-56)).unwrap();
    check::<Aarch64>(by_fp, [pc, STACK - 64, STACK, 0], &stack, [ra, at(8), at(9)]);
    // Where no row is: a leaf without a frame, and one with.
    check::<Aarch64>(Rule::GAP, [pc, STACK, at(4), signed], &stack, [ra, STACK, at(4)]);
    stack[5] = signed;
    stack[4] = 77;
    check::<Aarch64>(Rule::GAP, [pc, STACK, at(4), signed], &stack, [ra, at(6), 77]);
    // The link register is a leaf's only.
    let code = Code::of(&[leaf, leaf]);
    let (walk, end) = code.walk::<Aarch64>([pc, STACK, 7, ra], &stack);
    assert_eq!((end, walk.frames), (End::BAD_FRAME, 2));
}

/// A handler's frame leads to a lower stack; the pc above it is exact, and looked up as it is.
fn through_a_signal<A: Arch>() {
    let code = Code::of(&[Rule::SIGNAL, sp(16, Slot::Kept), Rule::END]);
    let mut stack = vec![0u64; 100];
    let place = |bytes: u64| usize::try_from(bytes / 8).unwrap() + 10;
    stack[place(A::SIGNAL.pc)] = Code::pc(1);
    stack[place(A::SIGNAL.sp)] = STACK;
    stack[place(A::SIGNAL.fp)] = 55;
    stack[1] = Code::pc(2);
    let (walk, end) = code.walk::<A>([Code::pc(0), STACK + 80, 7, 0], &stack);
    assert_eq!(end, End::ROOT);
    assert_eq!(walk.stack(), [Code::pc(0), Code::pc(1), Code::pc(2) - 1]);
    assert_eq!((walk.fp, walk.signals), (55, 1));
    // One that leads to itself.
    stack[place(A::SIGNAL.pc)] = Code::pc(0);
    stack[place(A::SIGNAL.sp)] = STACK + 80;
    let (walk, end) = code.walk::<A>([Code::pc(0), STACK + 80, 7, 0], &stack);
    assert_eq!((end, walk.frames), (End::BAD_FRAME, MAX_SIGNALS + 1));
}

#[test]
fn signals() {
    through_a_signal::<X86_64>();
    through_a_signal::<Aarch64>();
}

#[test]
fn rows_that_lie() {
    let (pc, next) = (Code::pc(0), Code::pc(1));
    let fp = Rule::new(Kind::FP, 16, Slot::Cfa(-16), Some(-8)).unwrap();
    let check = |rule: Rule, registers: [u64; 4], stack: &[u64], want: End| {
        let (walk, end) = Code::of(&[rule, rule]).walk::<X86_64>(registers, stack);
        assert_eq!(end, want, "{rule:?} {:?}", walk.stack());
        assert!(walk.frames > 0);
    };
    let stack = vec![next; 64];
    // Into itself, down, beyond what there is, to no code, to an unaligned or low frame pointer, from a low stack.
    check(sp(0, Slot::Kept), [pc, STACK + 64, 0, 0], &stack, End::BAD_FRAME);
    check(sp(-32, Slot::Kept), [pc, STACK + 64, 0, 0], &stack, End::BAD_FRAME);
    check(sp(1 << 20, Slot::Kept), [pc, STACK, 0, 0], &stack, End::UNREADABLE);
    check(sp(8, Slot::Kept), [pc, STACK, 0, 0], &[12345], End::BAD_FRAME);
    check(fp, [pc, STACK, STACK + 4, 0], &stack, End::BAD_FRAME);
    check(fp, [pc, STACK + 64, STACK, 0], &stack, End::BAD_FRAME);
    check(sp(8, Slot::Kept), [pc, 4000, 0, 0], &stack, End::BAD_FRAME);
    check(Rule::UNSUPPORTED, [pc, STACK, 3, 0], &stack, End::NO_TABLE);
    check(
        Rule::deref(Kind::FP_DEREF, 0, 0, Slot::Kept).unwrap(),
        [pc, STACK + 8, STACK, 0],
        &[STACK + 8],
        End::BAD_FRAME,
    );
    // As many frames as there may be, and not one more.
    let (walk, end) =
        Code::of(&[sp(8, Slot::Kept), sp(8, Slot::Kept)]).walk::<X86_64>([pc, STACK, 0, 0], &[next; 2000]);
    assert_eq!((end, walk.frames), (End::TOO_MANY_FRAMES, MAX_FRAMES));
    // Outermost: a return address of 0.
    check(sp(8, Slot::Kept), [pc, STACK, 0, 0], &[0], End::ROOT);
}

#[test]
fn code_that_has_no_table() {
    let code = Code::of(&[sp(8, Slot::Kept)]);
    let (jit, pending, pc) = (CODE + 0x10_0040, CODE + 0x20_0040, Code::pc(0));
    let (walk, end) = code.walk::<X86_64>([jit, STACK, STACK + 8, 0], &[0, 0, 0]);
    assert_eq!((end, walk.frames), (End::ROOT, 1), "a chain that ends");
    let (walk, end) = code.walk::<X86_64>([jit, STACK, 3, 0], &[0, 0, 0]);
    assert_eq!((end, walk.frames), (End::NO_TABLE, 1));
    // The word on top is code: called a moment ago.
    let (walk, end) = code.walk::<X86_64>([jit, STACK, 3, 0], &[pc, pending, 0]);
    assert_eq!((end, walk.stack()), (End::PENDING, [jit, pc - 1, pending - 1].as_slice()));
    // Called through a wild pointer.
    let (walk, end) = code.walk::<X86_64>([4, STACK, 3, 0], &[pc, 0]);
    assert_eq!((end, walk.stack()), (End::ROOT, [4, pc - 1].as_slice()));
    let (walk, end) = code.walk::<X86_64>([4, STACK, 3, 0], &[5, 0]);
    assert_eq!((end, walk.stack()), (End::BAD_FRAME, [4].as_slice()));
    let nobody = Code { shards: LocalShards::new(), mappings: (Place::NOWHERE, 0) };
    assert_eq!(nobody.walk::<X86_64>([pc, STACK, 0, 0], &[]).1, End::UNKNOWN_PROCESS);
}

/// Words that a stack may hold.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0u64..0x3000).prop_map(|n| CODE + n),
        1 => (0u64..0x30_0000).prop_map(|n| CODE + n),
        3 => (0u64..600).prop_map(|n| STACK + n * 8),
        1 => 0u64..40,
        1 => any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_rules_and_any_stack_end(
        rules in proptest::collection::vec(prop_oneof![any::<u64>(), (any::<u64>(), 0u64..12).prop_map(|(n, kind)| (n & 0xff00_ffff_0000_ff80) | kind)], 1..30),
        stack in proptest::collection::vec(word(), 0..400),
        registers in [word(), word(), word(), word()],
    ) {
        let rules: Vec<_> = rules.into_iter().map(Rule).collect();
        let code = Code::of(&rules);
        for sp in [STACK, registers[1]] {
            let registers = [registers[0], sp, registers[2], registers[3]];
            for (walk, end) in [code.walk::<X86_64>(registers, &stack), code.walk::<Aarch64>(registers, &stack)] {
                prop_assert!(walk.frames <= MAX_FRAMES);
                prop_assert!(walk.frames == MAX_FRAMES || end != End::TOO_MANY_FRAMES);
            }
        }
    }

    /// Shards of any bytes: what a program would read if the tables changed under it.
    #[test]
    fn any_tables_end(bytes in proptest::collection::vec(any::<u8>(), 4096), (pc, sp, fp, place) in (word(), any::<u64>(), word(), any::<u32>()), count in 0u32..5000) {
        let mut shards = LocalShards::new();
        for i in 0..64 {
            shards.write(0, i * 4096, &bytes);
        }
        let stack: Vec<u8> = (0..400u64).flat_map(|i| (CODE + i).to_le_bytes()).collect();
        let mut walk = Walk::default();
        walk.begin([pc, sp, fp, 0], place, count, MAX_FRAMES);
        let mut memory = Snapshot::new(&shards, STACK, &stack);
        let mut steps = 0;
        while step::<X86_64, _>(&mut walk, &mut memory) == End::GOING_ON {
            steps += 1;
            prop_assert!(steps <= MAX_FRAMES);
            prop_assert!(walk.flags & FLAG_EXACT == 0 || walk.signals > 0);
        }
    }
}
