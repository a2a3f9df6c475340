//! Stock binaries and what they work on: loads that nobody made for a profiler.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

const PYTHON: &str = "import json, re
d = {str(i): [i, {'k': i * 2}] for i in range(2000)}
for r in range(1500):
    s = json.dumps(d)
    e = json.loads(s)
    sorted(e, key=lambda k: e[k][1]['k'] % 97)
    re.findall(r'[0-9]+1', s)
";

const BASH: &str = "f() { local i; for ((i = 0; i < 200; i++)); do x=${x:0:20}$i; y=(${x//1/ }); done; }
for ((j = 0; j < 3500; j++)); do f; done
";

const PERL: &str = "for my $r (1..700) {
    my %h;
    $h{$_ % 977} .= chr(65 + $_ % 26) for 1..60000;
    my @k = sort { length $h{$a} <=> length $h{$b} } keys %h;
    my $t = join '', @k;
    $t =~ s/1(\\d)/$1/g;
}
";

/// Text that compresses, but not at once.
const TEXT: &str =
    "BEGIN { srand(7); for (i = 0; i < 150000; i++) print i, rand(), int(rand() * 1000), \"word\" int(rand() * 50) }";

/// C that takes an optimiser some time.
const SOURCE: &str = r#"BEGIN { srand(3); print "int g(int);"
for (i = 1; i <= 220; i++) {
    printf "int f%d(int *p, int a, int b) { int s = %d;\n", i, i
    for (j = 0; j < 6; j++)
        printf "for (int i = 0; i < a; i++) { s += p[i] * b; if (s > %d) s ^= g(s + i); else p[i + %d] = s >> %d;" \
            "switch (s %% 7) { case %d: b++; break; case %d: b -= i; break; default: s *= 3; } }\n",
            int(rand() * 1000), j, j + 1, j % 3, 3 + j % 4
    print "return s; }"
} }"#;

/// Rust that takes a compiler some time: every function has types of its own.
fn rust() -> String {
    let mut text = String::from("use std::collections::BTreeMap;\n");
    for i in 0..120 {
        text += &format!(
            "pub fn f{i}(a: &[u{width}]) -> BTreeMap<String, Vec<u{width}>> {{
                let mut m: BTreeMap<String, Vec<u{width}>> = BTreeMap::new();
                for (n, v) in a.iter().enumerate() {{
                    m.entry(format!(\"{{}}-{i}\", n % {modulo})).or_default().push(v.wrapping_mul({i}).rotate_left({bits}));
                }}
                m.values_mut().for_each(|v| v.sort_by_key(|x| std::cmp::Reverse(x ^ {i})));
                m.into_iter().filter(|(k, v)| k.len() > {bits} && v.len() > {modulo}).collect()
            }}\n",
            width = [8, 16, 32, 64, 128][i % 5],
            modulo = i % 13 + 2,
            bits = i % 7,
        );
    }
    text
}

const REPOSITORY: &str = "git init -q repo && cd repo && git config user.email t@t && git config user.name t && \
    for i in $(seq 150); do head -c $((i * 20000)) ../big.txt | tail -c 200000 > f$((i % 20)); git add -A; git commit -qm $i; done";

/// What stock binaries do: each burns some seconds. Name, the beginnings of its processes' names, words for a shell in `folder`.
pub type Stock = (&'static str, &'static [&'static str], String);

/// Writes what stock binaries work on into `folder`, and tells how each is started.
///
/// # Errors
/// When it cannot be made.
pub fn prepare(folder: &Path) -> Result<Vec<Stock>> {
    let shell = |text: &str| {
        let status = Command::new("/bin/sh").args(["-ec", text]).current_dir(folder).status()?;
        ensure!(status.success(), "{status}: {text}");
        Ok(())
    };
    fs::write(folder.join("work.py"), PYTHON)?;
    fs::write(folder.join("work.sh"), BASH)?;
    fs::write(folder.join("work.pl"), PERL)?;
    fs::write(folder.join("work.rs"), rust())?;
    fs::write(folder.join("text.awk"), TEXT)?;
    fs::write(folder.join("source.awk"), SOURCE)?;
    shell("awk -f text.awk > big.txt && awk -f source.awk > big.c")?;
    shell(REPOSITORY)?;
    Ok(vec![
        ("python3", &["python3.11", "python3"], "exec /usr/bin/python3 work.py".to_owned()),
        ("bash", &["bash"], "exec bash work.sh".to_owned()),
        ("perl", &["perl"], "exec perl work.pl".to_owned()),
        ("xz", &["xz"], "exec xz -6 -T1 -k -f big.txt".to_owned()),
        ("git", &["git"], "cd repo && exec git repack -q -a -d -f --window=300 --depth=100 --threads=1".to_owned()),
        ("gcc", &["cc1"], "exec gcc -O2 -c big.c -o big.o".to_owned()),
        ("rustc", &["rustc"], "exec rustc --edition 2024 -O --crate-type lib work.rs -o work.rlib".to_owned()),
    ])
}
