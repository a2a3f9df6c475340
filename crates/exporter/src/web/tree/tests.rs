use profile::named::LocationKind::{Cut, Kernel, Native};
use proptest::prelude::*;

use super::*;
use crate::synthetic::Maker;

fn two_processes() -> std::sync::Arc<Profile> {
    let main = ("main", "/usr/bin/app", Native);
    Maker::new(1000, 0, 5)
        .add(("app", 10), "app", &[main, ("work", "/usr/bin/app", Native)], 60)
        .add(("app", 10), "io", &[main, ("read", "/lib/libc.so.6", Native), ("vfs_read", "[kernel]", Kernel)], 30)
        .add(("app", 11), "app", &[main], 5)
        .add(("db", 20), "db", &[("[cut: bad_frame]", "", Cut), ("work", "/usr/bin/db", Native)], 5)
        .build()
}

/// The tree as indented text.
fn draw(tree: &FlameTree) -> String {
    let n = &tree.nodes;
    let mut depth = vec![0_usize; n.parent.len()];
    let mut out = String::new();
    for i in 0..n.parent.len() {
        if i > 0 {
            depth[i] = depth[n.parent[i] as usize] + 1;
        }
        let name = &tree.strings[n.name[i] as usize];
        out += &format!("{}{name} {}/{} {:?}\n", "  ".repeat(depth[i]), n.own[i], n.total[i], n.kind[i]);
    }
    out
}

fn options(grouping: Grouping) -> TreeOptions {
    TreeOptions { grouping, ..TreeOptions::default() }
}

fn process(tgid: u32) -> TreeOptions {
    TreeOptions { filter: Filter { tgid: Some(tgid), ..Filter::default() }, ..TreeOptions::default() }
}

#[test]
fn grouping_decides_what_stands_below_the_root() {
    let profile = two_processes();
    let by = |grouping| draw(&build([&*profile], options(grouping)));
    assert_eq!(
        by(Grouping::Program),
        "all 0/100 Root
  app 0/95 Process
    main 5/95 User
      work 60/60 User
      read 0/30 User
        vfs_read 30/30 Kernel
  db 0/5 Process
    [cut: bad_frame] 0/5 Cut
      work 5/5 User
"
    );
    assert_eq!(
        by(Grouping::Thread),
        "all 0/100 Root
  app [10] 0/90 Process
    app 0/60 Thread
      main 0/60 User
        work 60/60 User
    io 0/30 Thread
      main 0/30 User
        read 0/30 User
          vfs_read 30/30 Kernel
  app [11] 0/5 Process
    app 0/5 Thread
      main 5/5 User
  db [20] 0/5 Process
    db 0/5 Thread
      [cut: bad_frame] 0/5 Cut
        work 5/5 User
"
    );
    assert!(by(Grouping::Process).contains("\n  app [10] 0/90 Process\n    main 0/90 User\n"));
    // The two `work` are functions of different files, and stay apart.
    assert!(by(Grouping::Merged).contains("all 0/100 Root\n  main 5/95 User\n"));
}

#[test]
fn a_filter_keeps_one_process_and_still_tells_of_all() {
    let profile = two_processes();
    let tree = build([&*profile], process(20));
    assert_eq!((tree.samples, tree.range_samples), (5, 100));
    assert_eq!(tree.processes.tgid, [10, 11, 20]);
    assert_eq!(tree.processes.samples, [90, 5, 5]);
    let none = build([&*profile], process(99));
    assert_eq!((none.samples, draw(&none)), (0, "all 0/0 Root\n".to_owned()));
}

#[test]
fn a_recursion_counts_once_in_the_table() {
    let f = ("f", "/usr/bin/app", Native);
    let g = ("g", "/usr/bin/app", Native);
    let profile = Maker::new(0, 0, 5).add(("app", 1), "app", &[f, g, f, f], 7).add(("app", 1), "app", &[g], 2).build();
    let tree = build([&*profile, &*profile], TreeOptions::default());
    let rows: Vec<_> = (0..tree.top.name.len())
        .map(|i| (tree.strings[tree.top.name[i] as usize].as_str(), tree.top.own[i], tree.top.total[i]))
        .collect();
    assert_eq!(rows, [("f", 14, 14), ("g", 4, 18)]);
}

#[test]
fn pruning_keeps_the_sums() {
    let profile = two_processes();
    let tree = build([&*profile], TreeOptions { min_share: 0.1, ..TreeOptions::default() });
    assert_eq!(
        draw(&tree),
        "all 0/100 Root
  app 0/95 Process
    main 5/95 User
      work 60/60 User
      read 0/30 User
        vfs_read 30/30 Kernel
  (pruned) 5/5 Pruned
"
    );
    assert_eq!(tree.pruned_nodes, 3);
}

#[test]
fn a_long_name_is_cut_between_characters() {
    let name = "é".repeat(MAX_TEXT_BYTES);
    let profile = Maker::new(0, 0, 5).add(("app", 1), "app", &[(&name, "/usr/bin/app", Native)], 1).build();
    let tree = build([&*profile], TreeOptions::default());
    let longest = tree.strings.iter().max_by_key(|s| s.len()).unwrap();
    assert!(longest.len() <= MAX_TEXT_BYTES + '…'.len_utf8() && longest.ends_with("é…"));
}

#[test]
fn nothing_at_all_is_a_root() {
    let tree = build([], TreeOptions::default());
    assert_eq!(draw(&tree), "all 0/0 Root\n");
}

fn any_stacks() -> impl Strategy<Value = Vec<(u32, Vec<u8>, u64)>> {
    prop::collection::vec((0_u32..4, prop::collection::vec(0_u8..5, 1..8), 1_u64..50), 0..60)
}

#[test]
fn containers_pods_and_services_are_groups() {
    let main = [("main", "/usr/bin/app", Native)];
    let profile = Maker::new(1000, 0, 5)
        .within(["shop", "cart-0", "web", "cart"])
        .add(("app", 10), "app", &main, 6)
        .within(["shop", "cart-0", "sidecar", "mesh"])
        .add(("proxy", 11), "proxy", &main, 3)
        .within(["", "", "db", "db"])
        .add(("postgres", 12), "postgres", &main, 2)
        .outside()
        .add(("sshd", 13), "sshd", &main, 1)
        .build();
    let by = |grouping| {
        let tree = draw(&build([&*profile], options(grouping)));
        tree.lines().filter(|l| !l.contains("main")).map(|l| format!("{l}\n")).collect::<String>()
    };
    assert_eq!(
        by(Grouping::Container),
        "all 0/12 Root
  shop/cart-0/web 0/6 Container
    app 0/6 Process
  shop/cart-0/sidecar 0/3 Container
    proxy 0/3 Process
  db 0/2 Container
    postgres 0/2 Process
  (no container) 0/1 Container
    sshd 0/1 Process
"
    );
    assert_eq!(
        by(Grouping::Pod),
        "all 0/12 Root
  shop/cart-0 0/9 Pod
    web 0/6 Container
    sidecar 0/3 Container
  (no pod) 0/3 Pod
    postgres 0/2 Process
    sshd 0/1 Process
"
    );
    assert_eq!(
        by(Grouping::Service),
        "all 0/12 Root
  cart 0/6 Service
    app 0/6 Process
  mesh 0/3 Service
    proxy 0/3 Process
  db 0/2 Service
    postgres 0/2 Process
  (no service) 0/1 Service
    sshd 0/1 Process
"
    );
    // All places are told, whatever the filter.
    let filter = Filter { pod: Some("cart-0".into()), ..Filter::default() };
    let tree = build([&*profile], TreeOptions { filter, ..TreeOptions::default() });
    assert_eq!((tree.samples, tree.range_samples), (9, 12));
    let text = |column: &[u32]| column.iter().map(|&i| tree.strings[i as usize].clone()).collect::<Vec<_>>();
    assert_eq!(text(&tree.places.container), ["web", "sidecar", "db"]);
    assert_eq!(text(&tree.places.pod), ["cart-0", "cart-0", ""]);
    assert_eq!(text(&tree.places.service), ["cart", "mesh", "db"]);
    assert_eq!(tree.places.samples, [6, 3, 2]);
}

proptest! {
    /// Every node is its own samples plus its children's, children come after their parent, nothing exceeds the limit,
    /// and no sample is lost, whatever is pruned.
    #[test]
    fn sums_are_right_whatever_is_pruned(stacks in any_stacks(), max_nodes in 1_usize..60, share in 0.0_f64..0.5) {
        let names = ["a", "b", "c", "d", "e"];
        let mut maker = Maker::new(0, 0, 5);
        for (pid, stack, count) in &stacks {
            let frames: Vec<_> = stack.iter().map(|&f| (names[f as usize], "/usr/bin/app", Native)).collect();
            maker.add(("app", *pid + 1), "app", &frames, *count);
        }
        let profile = maker.build();
        for grouping in [Grouping::Merged, Grouping::Program, Grouping::Process, Grouping::Thread] {
            let options = TreeOptions { grouping, max_nodes, min_share: share, ..TreeOptions::default() };
            let tree = build([&*profile], options);
            let n = &tree.nodes;
            prop_assert_eq!(n.total[0], profile.samples());
            let told = n.kind.iter().filter(|&&k| k != Kind::Pruned).count();
            prop_assert!(told <= max_nodes.max(1));
            let mut below = vec![0_u64; n.parent.len()];
            for i in (1..n.parent.len()).rev() {
                prop_assert!((n.parent[i] as usize) < i);
                below[n.parent[i] as usize] += n.total[i];
                prop_assert_eq!(below[i] + n.own[i], n.total[i]);
            }
            prop_assert_eq!(below[0] + n.own[0], n.total[0]);
            prop_assert_eq!(tree.top.own.iter().sum::<u64>(), profile.samples());
        }
    }
}
