//! The processor's side: it keeps the books, and can let a worker wait for an answer while it is killed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use benches::bank::{Request, told};
use benches::worker::RESOLUTION;
use pgw_core::currency::Currency;
use pgw_core::env::Env;
use pgw_core::id::{OperationId, PaymentId};
use pgw_core::money::Money;
use pgw_core::payment::{Finality, OperationKind};
use pgw_core::processor::{Confirmation, Finding, Instruction, LookUp, Processor as _};
use pgw_core::sandbox::{LedgerEntry, Sandbox};
use pgw_core::scope::Scope;
use pgw_core::text::PaymentMethod;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

#[derive(Debug)]
pub(crate) struct Bank {
    /// It executes a key again that comes again, so a call too many is a charge too many.
    sandbox: Sandbox,
    holds_next: AtomicBool,
    held: mpsc::UnboundedSender<u32>,
}

impl Bank {
    /// Opens, and gives the numbers of the workers that wait in vain.
    pub(crate) async fn open() -> (Arc<Self>, SocketAddr, mpsc::UnboundedReceiver<u32>) {
        let (held, waiting) = mpsc::unbounded_channel();
        let sandbox = Sandbox::new(Env::system()).with_resolution(RESOLUTION);
        let bank = Arc::new(Self { sandbox, holds_next: AtomicBool::new(false), held });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let serving = Arc::clone(&bank);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // An error means that the worker is dead, as some are meant to be.
                tokio::spawn(Arc::clone(&serving).serve(stream));
            }
        });
        (bank, address, waiting)
    }

    /// The next charge is executed, and its worker hears nothing for as long as it lives.
    pub(crate) fn hold_next(&self) {
        self.holds_next.store(true, Ordering::SeqCst);
    }

    pub(crate) fn ledger(&self) -> Vec<LedgerEntry> {
        self.sandbox.ledger()
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        let (reads, mut writes) = stream.into_split();
        let mut reads = BufReader::new(reads);
        let mut line = String::new();
        reads.read_line(&mut line).await?;
        let Some((worker, request)) = Request::parse(&line) else { return Ok(()) };
        let is_charge = matches!(request, Request::Charge { .. });
        let is_held = is_charge && self.holds_next.swap(false, Ordering::SeqCst);
        let answer = self.answer(request).await;
        if is_held {
            // An error means that nobody waits for one any more.
            let _ = self.held.send(worker);
            // Over when the worker is dead, or has waited for as long as it waits.
            reads.read_to_end(&mut Vec::new()).await?;
            return Ok(());
        }
        writes.write_all(format!("{answer}\n").as_bytes()).await
    }

    async fn answer(&self, request: Request) -> String {
        told(&match request {
            Request::Charge { key, payment, minor } => {
                let instruction = instruction(key, payment, minor);
                self.sandbox.submit(&instruction).await.map(Finding::Found)
            }
            Request::Find { key } => {
                let query = LookUp { key, reference: None, kind: OperationKind::Charge };
                self.sandbox.look_up(&query).await
            }
        })
    }
}

fn instruction(key: OperationId, payment: PaymentId, minor: i64) -> Instruction {
    Instruction {
        key,
        scope: Scope::default(),
        payment,
        kind: OperationKind::Charge,
        amount: Money::from_minor(minor, Currency::USD).expect("what was asked is an amount"),
        payment_method: PaymentMethod::parse("tok_visa").expect("a valid token"),
        finality: Finality::default(),
        reference: None,
        initial_key: key,
        confirmation: Confirmation::None,
    }
}
