//! A processor's calls and questions going wrong one by one, and how many there were.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use pgw_core::processor::{Instruction, LookUp};
use pgw_core::sandbox::{Fault, SandboxFaults};

/// What goes wrong on the first calls and on the first questions; nothing after that.
#[derive(Debug, Default)]
pub(crate) struct Script {
    of_calls: Mutex<VecDeque<Fault>>,
    of_questions: Mutex<VecDeque<Fault>>,
    calls: AtomicU32,
    questions: AtomicU32,
}

impl Script {
    pub(crate) fn new(of_calls: &[Fault], of_questions: &[Fault]) -> Arc<Self> {
        let list = |faults: &[Fault]| Mutex::new(faults.iter().copied().collect());
        let (of_calls, of_questions) = (list(of_calls), list(of_questions));
        Arc::new(Self { of_calls, of_questions, ..Self::default() })
    }

    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn questions(&self) -> u32 {
        self.questions.load(Ordering::SeqCst)
    }
}

impl SandboxFaults for Script {
    fn on_submit(&self, _instruction: &Instruction) -> Fault {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.of_calls.lock().unwrap().pop_front().unwrap_or(Fault::None)
    }

    fn on_query(&self, _query: &LookUp) -> Fault {
        self.questions.fetch_add(1, Ordering::SeqCst);
        self.of_questions.lock().unwrap().pop_front().unwrap_or(Fault::None)
    }
}
