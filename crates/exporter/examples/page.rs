//! Serves the page with made-up profiles, to work on it without a kernel: `cargo run -p exporter --example page`.
//!
//! `page [PORT] [empty|idle|busy|huge]`: no window at all, windows without samples, a made-up machine (the default), or a
//! tree of a hundred thousand nodes. New windows are published every five seconds.
#![expect(clippy::print_stdout, reason = "a tool for people")]

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use exporter::health::Health;
use exporter::metrics::{BuildInfo, Metrics, Sources, Statistics};
use exporter::store::{Store, StoreSettings};
use exporter::web::{self, WebSettings};
use profile::Profile;
use profile::named::LocationKind::{Cut, Kernel, Native};
use profile::stats::Snapshot;
use synthetic::{Frame, Maker};

struct Nothing;

impl Statistics for Nothing {
    fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }
}

impl Health for Nothing {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A small generator: the same windows on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides.max(1)
    }
}

const LIBC: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";
const KERNEL: &str = "[kernel]";

fn system_call(inner: &[&'static str]) -> Vec<Frame<'static>> {
    let entry = ["entry_SYSCALL_64_after_hwframe", "do_syscall_64"];
    entry.iter().chain(inner).map(|name| (*name, KERNEL, Kernel)).collect()
}

fn busy(window: u64, epoch_s: u64) -> Arc<Profile> {
    let mut dice = Dice(window * 7 + 1);
    let mut maker = Maker::new(epoch_s, window * 5, 5);
    maker.within(["data", "postgres-0", "postgres", "postgres"]);
    postgres(&mut maker, &mut dice);
    maker.within(["shop", "order-service-6d4f8b7c9-x2x7p", "order-service", "orders"]);
    java_like(&mut maker, &mut dice);
    maker.within(["shop", "order-service-6d4f8b7c9-x2x7p", "mesh-proxy", "mesh"]);
    proxy(&mut maker, &mut dice);
    maker.outside();
    small_ones(&mut maker, &mut dice);
    let evil = "</option><script>alert(4)</script>";
    maker.within([evil, "\u{202e}dop\n", "\"><img src=x onerror=alert(5)>", "&amp;a=b&c=d"]);
    hostile(&mut maker, &mut dice);
    maker.within(["", "", "registry", "registry"]);
    let registry = [("main", "/usr/bin/registry", Native), ("serve", "/usr/bin/registry", Native)];
    maker.add(("registry", 9100), "registry", &registry, 3 + dice.roll(20));
    maker.build()
}

fn postgres(maker: &mut Maker, dice: &mut Dice) {
    const PG: &str = "/usr/lib/postgresql/16/bin/postgres";
    let base: Vec<Frame<'_>> =
        ["_start", "main", "PostmasterMain", "ServerLoop", "BackendStartup", "PostgresMain", "exec_simple_query"]
            .iter()
            .map(|name| (*name, PG, Native))
            .collect();
    let plans: [&[&str]; 5] = [
        &[
            "PortalRun",
            "PortalRunSelect",
            "standard_ExecutorRun",
            "ExecAgg",
            "agg_retrieve_direct",
            "advance_aggregates",
        ],
        &["PortalRun", "PortalRunSelect", "standard_ExecutorRun", "ExecSort", "tuplesort_performsort", "qsort_tuple"],
        &["PortalRun", "PortalRunSelect", "standard_ExecutorRun", "ExecHashJoin", "ExecScanHashBucket"],
        &[
            "PortalRun",
            "PortalRunSelect",
            "standard_ExecutorRun",
            "ExecSeqScan",
            "heap_getnextslot",
            "heapgettup_pagemode",
        ],
        &[
            "pg_plan_queries",
            "standard_planner",
            "subquery_planner",
            "query_planner",
            "make_one_rel",
            "standard_join_search",
        ],
    ];
    for pid in [4021, 4022, 4037] {
        for plan in plans {
            let mut stack = base.clone();
            stack.extend(plan.iter().map(|name| (*name, PG, Native)));
            maker.add(("postgres", pid), "postgres", &stack, 1 + dice.roll(26));
            stack.push(("__memcpy_avx_unaligned_erms", LIBC, Native));
            maker.add(("postgres", pid), "postgres", &stack, 1 + dice.roll(9));
            stack.pop();
            stack.push(("pread64", LIBC, Native));
            let read = ["__x64_sys_pread64", "vfs_read", "ext4_file_read_iter", "filemap_read", "copy_page_to_iter"];
            stack.extend(system_call(&read));
            maker.add(("postgres", pid), "postgres", &stack, 1 + dice.roll(8));
        }
    }
}

fn java_like(maker: &mut Maker, dice: &mut Dice) {
    const APP: &str = "/opt/orders/bin/order-service";
    for (thread, task) in
        [("tokio-rt-worker", "handle_order"), ("tokio-rt-worker", "list_orders"), ("log-flush", "flush")]
    {
        let names = [
            "__clone3",
            "std::sys::thread::unix::Thread::new::thread_start",
            "tokio::runtime::scheduler::multi_thread::worker::run",
            "tokio::runtime::scheduler::multi_thread::worker::Context::run_task",
            "<hyper::proto::h1::dispatch::Dispatcher<D, Bs, I, T> as core::future::future::Future>::poll",
        ];
        let mut stack: Vec<Frame<'_>> = names.iter().map(|name| (*name, APP, Native)).collect();
        stack.push((task, APP, Native));
        for (name, weight) in [
            ("serde_json::de::from_slice::<orders::model::Order>", 40),
            ("orders::price::PriceBook::lookup", 55),
            ("alloc::raw_vec::RawVec<T, A>::grow_amortized", 12),
            (
                "<std::collections::hash::map::HashMap<K, V, S> as core::iter::traits::collect::Extend<(K, V)>>::extend",
                22,
            ),
        ] {
            stack.push((name, APP, Native));
            maker.add(("order-service", 911), thread, &stack, 1 + dice.roll(weight));
            stack.push(("malloc", LIBC, Native));
            maker.add(("order-service", 911), thread, &stack, 1 + dice.roll(6));
            stack.push(("_int_malloc", LIBC, Native));
            maker.add(("order-service", 911), thread, &stack, 1 + dice.roll(9));
            stack.truncate(6);
        }
        stack.push(("__send", LIBC, Native));
        let send = [
            "__x64_sys_sendto",
            "sock_sendmsg",
            "tcp_sendmsg",
            "tcp_sendmsg_locked",
            "tcp_write_xmit",
            "ip_queue_xmit",
        ];
        stack.extend(system_call(&send));
        maker.add(("order-service", 911), thread, &stack, 5 + dice.roll(30));
    }
}

fn proxy(maker: &mut Maker, dice: &mut Dice) {
    const PROXY: &str = "/usr/local/bin/envoy";
    let mut stack: Vec<Frame<'_>> =
        ["_start", "main", "Envoy::Server::InstanceImpl::run"].map(|n| (n, PROXY, Native)).into();
    for name in ["event_base_loop", "Envoy::Network::ConnectionImpl::onReadReady", "SSL_read", "aes_gcm_dec_update"] {
        stack.push((name, PROXY, Native));
        maker.add(("envoy", 950), "wrk:worker_0", &stack, 3 + dice.roll(25));
    }
}

fn small_ones(maker: &mut Maker, dice: &mut Dice) {
    for (i, pid) in (7001..7013).enumerate() {
        let cc1 = "/usr/lib/gcc/x86_64-linux-gnu/14/cc1plus";
        let mut stack: Vec<Frame<'_>> = ["_start", "__libc_start_main_impl", "main", "toplev::main", "compile_file"]
            .map(|n| (n, cc1, Native))
            .into();
        for pass in
            ["c_parse_file", "cp_parser_declaration", "instantiate_class_template", "ggc_collect", "execute_pass_list"]
        {
            stack.push((pass, cc1, Native));
            maker.add(("cc1plus", pid), "cc1plus", &stack, 1 + dice.roll(3 + i as u64));
        }
        maker.add(
            ("cc1plus", pid),
            "cc1plus",
            &[("[cut: truncated_snapshot]", "", Cut), ("layout_type", cc1, Native)],
            1,
        );
    }
    let idle = [("ret_from_fork", KERNEL, Kernel), ("kthread", KERNEL, Kernel), ("worker_thread", KERNEL, Kernel)];
    maker.add(("kworker/1:2-events", 88), "kworker/1:2", &idle, 1 + dice.roll(6));
    let gzip = "/usr/bin/gzip";
    let stripped = [("gzip+0x2f10", gzip, Native), ("gzip+0x51ac", gzip, Native), ("gzip+0x5b3e", gzip, Native)];
    maker.add(("gzip", 6100), "gzip", &stripped, 10 + dice.roll(40));
    let jit = [("main", "/usr/bin/node", Native), ("[anon]+0x7f10aa", "[anon]", Native)];
    maker.add(("node", 6200), "node", &jit, 4 + dice.roll(12));
}

fn hostile(maker: &mut Maker, dice: &mut Dice) {
    let evil = "/tmp/<img src=x onerror=alert(1)>";
    let long = "std::vector<std::pair<int, std::string>>::".repeat(60) + "push_back";
    let stack = [
        ("<script>document.title='owned'</script>", evil, Native),
        ("\" onmouseover=\"alert(1)", evil, Native),
        ("line one\nline two\ttab\u{202e}gnp.exe", evil, Native),
        (long.as_str(), evil, Native),
        ("&lt;b&gt;&amp;'`${alert(1)}", evil, Native),
        ("\u{fffd}\u{fffd}\u{1b}[31mred", evil, Native),
    ];
    for depth in 1..=stack.len() {
        maker.add(
            ("</title><script>alert(2)</script>", 666),
            "\"><svg/onload=alert(3)>",
            &stack[..depth],
            2 + dice.roll(4),
        );
    }
}

fn huge(window: u64, epoch_s: u64) -> Arc<Profile> {
    const FAN: [&str; 6] = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"];
    let mut maker = Maker::new(epoch_s, window * 5, 5);
    let mut dice = Dice(window + 99);
    for _ in 0..1500 {
        let depth = 20 + dice.roll(60);
        let mut stack: Vec<Frame<'_>> = vec![("main", "/usr/bin/huge", Native)];
        for _ in 0..depth {
            let name = FAN[usize::try_from(dice.roll(6).min(dice.roll(6))).unwrap_or(0)];
            stack.push((name, "/usr/bin/huge", Native));
        }
        maker.add(("huge", 5), "huge", &stack, 1 + dice.roll(5));
    }
    maker.build()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).map_or(Ok(2112), |p| p.parse())?;
    let kind = std::env::args().nth(2).unwrap_or_else(|| "busy".to_owned());
    let make = move |window: u64, epoch: u64| match kind.as_str() {
        "idle" => Some(Maker::new(epoch, window * 5, 5).build()),
        "busy" => Some(busy(window, epoch)),
        "huge" => Some(huge(window, epoch)),
        _ => None,
    };
    let store = Arc::new(Store::new(StoreSettings::default()));
    let windows = 100;
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() - windows * 5;
    let publish =
        move |store: &Store, window| make(window, epoch).into_iter().for_each(|profile| store.publish(profile));
    (0..windows).for_each(|window| publish(&store, window));
    let live = Arc::clone(&store);
    tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_secs(5));
        every.tick().await;
        for window in windows.. {
            every.tick().await;
            publish(&live, window);
        }
    });
    let build = BuildInfo { version: env!("CARGO_PKG_VERSION").to_owned(), revision: String::new() };
    let sources = Sources {
        statistics: Arc::new(Nothing),
        delivery: None,
        store: Some(Arc::clone(&store)),
        aggregated: None,
        processes: None,
        build,
    };
    let metrics = Arc::new(Metrics::new(sources)?);
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("http://{}/", listener.local_addr()?);
    let stop = async { _ = tokio::signal::ctrl_c().await };
    web::serve(listener, WebSettings::default(), store, metrics, Arc::new(Nothing), stop).await?;
    Ok(())
}
