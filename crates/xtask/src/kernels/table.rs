//! `docs/kernels.md`: what the kernels of one run have said.

use std::fmt::Write as _;

/// One kernel of the table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Row<'a> {
    kernel: &'a str,
    instructions: &'a str,
    with_tables: &'a str,
    registers: &'a str,
    controller: &'a str,
}

/// The whole file. A suite with the lines that its machine said.
pub(super) fn table(said: &[(&str, Vec<String>)]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    text.push_str("# Kernels\n\nMade by `cargo xtask kernels --write`: each kernel boots in a virtual machine, loads the committed eBPF object, and ");
    text.push_str("samples programs\nwhose registers, stacks and cgroups are known: by snapshots, and 60 calls deep without frame pointers by unwind tables, to the root.\n\n");
    text.push_str(
        "| Debian | kernel | verified instructions | with the walk over tables | registers of a task in the kernel | cgroup ids tried |\n",
    );
    text.push_str("| --- | --- | ---: | ---: | --- | --- |\n");
    for (suite, lines) in said {
        let Row { kernel, instructions, with_tables, registers, controller } = row(lines);
        writeln!(
            text,
            "| {suite} | {kernel} | {instructions} | {with_tables} | {registers} | version 2; version 1 ({controller}); both |"
        )?;
    }
    text.push_str("\nThe verifier gives up at a million instructions. Kernels before 5.16 do not tell how many it went through. Where a kernel has no\n");
    text.push_str("memory controller for version 1, containers are told apart by pids.\n");
    Ok(text)
}

fn row(lines: &[String]) -> Row<'_> {
    let mut row = Row::default();
    for line in lines {
        let mut words = line.split_whitespace();
        let finding = words.next() == Some("ok");
        if let Some((what, count)) = line.split_once("verified instructions ") {
            let column = if what.starts_with("ok tables ") { &mut row.with_tables } else { &mut row.instructions };
            *column = count.trim();
        } else if let Some(rest) = line.strip_prefix("ok cgroup version 1: ") {
            row.controller = rest.split_whitespace().next().unwrap_or_default();
        } else if let Some((_, how)) = line.split_once("saved user registers") {
            row.registers = how.trim();
        } else if finding && words.next() == Some("kernel") && line.starts_with("ok  ") {
            row.kernel = words.next().unwrap_or_default();
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_said() {
        let lines = [
            "ok       kernel                   6.1.0-50-cloud-amd64",
            "ok       saved user registers     by the helper bpf_task_pt_regs",
            "ok user mode: user 500, kernel 5 with 5.2 frames each, wrong 0; 182633 ns a sample; verified instructions 2937",
            "ok kernel mode: user 4, kernel 563; verified instructions 2938",
            "ok tables in user mode: user 590, kernel 2, wrong 0; 66.0 frames and 9000 ns a walk; 5000 KiB of maps; verified instructions 14748",
            "ok cgroup version 1: memory has id 8000000080000023; filtered 552, none crossed the ring",
            "RESULT ok",
        ];
        let lines: Vec<String> = lines.map(str::to_owned).to_vec();
        let expected = Row {
            kernel: "6.1.0-50-cloud-amd64",
            instructions: "2938",
            with_tables: "14748",
            registers: "by the helper bpf_task_pt_regs",
            controller: "memory",
        };
        assert_eq!(row(&lines), expected);
        let text = table(&[("bookworm", lines)]).unwrap();
        assert!(text.contains("| bookworm | 6.1.0-50-cloud-amd64 | 2938 | 14748 |"), "{text}");
    }
}
