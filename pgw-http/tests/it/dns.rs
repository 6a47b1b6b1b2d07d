//! A name server on the loopback interface that changes its mind, and a resolver that asks it over UDP and keeps nothing.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use pgw_http::transport::Resolver;
use tokio::net::UdpSocket;

/// What the server says about a name.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// These addresses: the IPv4 ones when asked for A, the others when asked for AAAA.
    Addresses(Vec<IpAddr>),
    /// It is an alias of that name, which has answers of its own.
    Alias(&'static str),
    /// There is no such name.
    Absent,
    /// Nothing at all.
    Silence,
}

/// The server. It stops with the runtime.
#[derive(Debug)]
pub(crate) struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl Dns {
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone::default()));
        tokio::spawn(serve(socket, Arc::clone(&zone)));
        Self { address, zone }
    }

    /// From now on, queries for this name get these answers in turn and over again; those for A and for AAAA count apart.
    pub(crate) fn answers(&self, name: &str, answers: impl IntoIterator<Item = Answer>) {
        let script = Script { answers: answers.into_iter().collect(), asked: BTreeMap::new() };
        self.zone.lock().unwrap().names.insert(name.to_owned(), script);
    }

    /// How many queries there were, for whatever name.
    pub(crate) fn queries(&self) -> usize {
        self.zone.lock().unwrap().queries
    }

    /// A resolver that asks this server each time.
    pub(crate) fn resolver(&self) -> Arc<dyn Resolver> {
        let mut connection = ConnectionConfig::udp();
        connection.port = self.address.port();
        let server = NameServerConfig::new(self.address.ip(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut options = ResolverOpts::default();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        // The longest answers come in one packet, as over TCP.
        options.edns_payload_len = 4096;
        // Many sends at once ask at once.
        options.max_active_requests = 4096;
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Arc::new(Asking(builder.with_options(options).build().unwrap()))
    }
}

#[derive(Debug, Default)]
struct Zone {
    names: BTreeMap<String, Script>,
    queries: usize,
}

#[derive(Debug)]
struct Script {
    answers: Vec<Answer>,
    asked: BTreeMap<RecordType, usize>,
}

impl Zone {
    fn answer(&mut self, name: &Name, record_type: RecordType) -> Answer {
        self.queries += 1;
        let name = name.to_ascii();
        let Some(script) = self.names.get_mut(name.trim_end_matches('.')) else {
            return Answer::Absent;
        };
        let asked = script.asked.entry(record_type).or_default();
        *asked += 1;
        script.answers[(*asked - 1) % script.answers.len()].clone()
    }
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut packet = [0; 4096];
    loop {
        let (len, client) = socket.recv_from(&mut packet).await.unwrap();
        let query = Message::from_vec(&packet[..len]).unwrap();
        if let Some(reply) = reply(&query, &zone) {
            // A client that has gone away meanwhile is none of the server's business.
            let _ = socket.send_to(&reply.to_vec().unwrap(), client).await;
        }
    }
}

fn reply(query: &Message, zone: &Mutex<Zone>) -> Option<Message> {
    let question = query.queries.first().unwrap().clone();
    let (name, record_type) = (question.name().clone(), question.query_type());
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    // None of them may be kept: the time to live is zero.
    let record = |data: RData| Record::from_rdata(name.clone(), 0, data);
    match zone.lock().unwrap().answer(&name, record_type) {
        Answer::Addresses(addresses) => {
            let asked = addresses.into_iter().filter(|address| {
                record_type == if address.is_ipv4() { RecordType::A } else { RecordType::AAAA }
            });
            reply.answers.extend(asked.map(|address| record(address.into())));
        }
        Answer::Alias(of) => {
            let of = Name::from_ascii(format!("{of}.")).unwrap();
            reply.answers.push(record(RData::CNAME(CNAME(of))));
        }
        Answer::Absent => reply.metadata.response_code = ResponseCode::NXDomain,
        Answer::Silence => return None,
    }
    reply.add_query(question);
    Some(reply)
}

#[derive(Debug)]
struct Asking(TokioResolver);

#[async_trait::async_trait]
impl Resolver for Asking {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        // Read as it is: as text, a host with an underscore would not be asked about.
        let name = Name::from_ascii(format!("{host}.")).map_err(io::Error::other)?;
        let found = self.0.lookup_ip(name).await.map_err(io::Error::other)?;
        Ok(found.iter().collect())
    }
}
