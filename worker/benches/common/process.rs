//! A process of a bench: started from the bench's own program, under orders.

use super::TOKEN;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tuplelab_domain::sample::Plateau;
use tuplelab_domain::schedule::{Work, WorkerOrder, WorkerReport};

pub struct Process {
    child: Child,
    orders: ChildStdin,
    reports: BufReader<ChildStdout>,
}

impl Process {
    /// Starts one and waits until it is ready.
    pub fn start(kind: &str, work: Work) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(kind)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, reports) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut process = Self { child, orders, reports };
        process.order(&WorkerOrder::Prepare { token: TOKEN, files: None, work });
        process.until(|report| matches!(report, WorkerReport::Ready).then_some(()));
        process
    }

    pub fn order(&mut self, order: &WorkerOrder) {
        writeln!(self.orders, "{}", serde_json::to_string(order).unwrap()).unwrap();
    }

    pub fn go(&mut self) {
        self.order(&WorkerOrder::Go { at_boottime_nanos: 0 });
    }

    /// Reads on until this is said.
    pub fn until<T>(&mut self, mut want: impl FnMut(WorkerReport) -> Option<T>) -> T {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.reports.read_line(&mut line).unwrap() > 0, "the process ended early");
            let report = serde_json::from_str(&line).unwrap();
            if let WorkerReport::Failed { why } = &report {
                panic!("{why}");
            }
            if let Some(found) = want(report) {
                return found;
            }
        }
    }

    /// A client's figures once all its flows are open.
    pub fn plateau(&mut self) -> Plateau {
        self.until(|report| match report {
            WorkerReport::Plateau(figures) => Some(figures),
            _ => None,
        })
    }

    /// The figures at this moment.
    pub fn tell(&mut self) -> Plateau {
        self.order(&WorkerOrder::Tell);
        self.until(|report| match report {
            WorkerReport::Told(figures) => Some(figures),
            _ => None,
        })
    }

    pub fn end(mut self) {
        self.order(&WorkerOrder::Release);
        self.until(|report| matches!(report, WorkerReport::Released(_)).then_some(()));
        drop(self.orders);
        self.child.wait().unwrap();
    }
}
