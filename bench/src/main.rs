//! `cargo bench`: our server against the servers that one would write instead, for each protocol.
//!
//! Each server is a process of its own, and on a machine with several cores it has a core of its
//! own. The load is the probe's, in this process. A machine's speed changes from second to second,
//! so servers are measured one right after the other, in rounds, and only ratios within a round
//! count.
//!
//! ```text
//! cargo bench                                everything, in about twelve minutes
//! cargo bench -- --quick                     a look, in about three
//! cargo bench -- tcp churn                   some protocols, or some questions
//! cargo bench -- idle --idle 100000          memory of that many idle connections
//! cargo bench -- ws --server before=PATH     compared with another build of ours
//! cargo bench -- fairness                    a bystander's echoes while others make costly work
//! cargo bench -- probe                       the probe beside a bare epoll client
//! cargo bench -- uring                       what io_uring could give; only if asked for
//! cargo bench -- --only 'UDP, 64'            some questions, by their names
//! cargo bench -- --smoke                     whether it all runs, in a few seconds
//! ```
//! `cargo test` runs the last one. It checks the echoes, and ignores times. `benches/echo.rs` of the
//! package at the top is what passes the arguments on.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `certificates` | the test certificates |
//! | `controls` | the other servers |
//! | `harness` | starts servers, measures them in pairs, reports |

#[cfg(target_os = "linux")]
mod certificates;
#[cfg(target_os = "linux")]
mod controls;
#[cfg(target_os = "linux")]
mod harness;

/// The allocator of our binary. Controls and load use it too, so ratios do not compare allocators.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [first, name] if first == controls::COMMAND => controls::serve(name),
        _ => harness::run(&arguments),
    }
}

/// The benchmark reads /proc and uses epoll.
#[cfg(not(target_os = "linux"))]
fn main() {
    println!("The benchmark runs on Linux only.");
}
