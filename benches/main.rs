//! `cargo bench`: our server against the servers that one would write instead, door by door.
//!
//! Each server is a process of its own, on a core of its own where there are two, and the load is
//! the probe's, in this process. A machine's speed changes from second to second, so servers are
//! measured in pairs, one right after the other, and only ratios within a pair are compared.
//!
//! ```text
//! cargo bench                                everything, in about a quarter of an hour
//! cargo bench -- tcp churn                   some doors, or some questions
//! cargo bench -- idle --idle 100000          memory of that many idle connections
//! cargo bench -- ws --server before=PATH     beside another build of ours
//! cargo bench -- --only 'UDP, 64'            some questions, by their names
//! cargo bench -- --smoke                     whether it all runs, in a few seconds
//! ```
//! `cargo test` runs the last one, and looks at echoes, never at times.
//!
//! | room | what it holds |
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

/// That of our binary, so that controls and load have it too, and ratios are not the allocator's.
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

/// It reads /proc, and its floor is epoll.
#[cfg(not(target_os = "linux"))]
fn main() {
    println!("The benchmark runs on Linux only.");
}
