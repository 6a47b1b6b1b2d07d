//! Redis Sentinel by the library's interface.

use servers::RedisSentinel;

use crate::processes::alive;
use crate::redis::{answer, process, write_twice};

#[test]
fn the_replica_takes_over_and_the_master_becomes_its_replica() {
    let mut sentinel = RedisSentinel::start().expect("all of them start");
    let [first, second] = [0, 1].map(|index| sentinel.server(index).url());
    assert_eq!(masters(&sentinel), vec![sentinel.server(0).address().to_string(); 3]);
    write_twice(&first, "key", "kept");
    sentinel.kill(0).expect("it can be killed");
    sentinel.wait_failover(0).expect("the other one takes over");
    assert_eq!(masters(&sentinel), vec![sentinel.server(1).address().to_string(); 3]);
    assert_eq!(answer(&second, &["GET", "key"]), "kept");
    assert_eq!(answer(&second, &["SET", "key", "replaced"]), "OK");
    sentinel.restart(0).expect("it starts again");
    sentinel.wait_ready().expect("it is the replica now");
    assert_eq!(answer(&first, &["GET", "key"]), "replaced");
}

#[test]
fn nothing_is_left_of_what_was_dropped() {
    let sentinel = RedisSentinel::start().expect("all of them start");
    let servers: Vec<_> = (0..2).map(|index| sentinel.server(index)).collect();
    let urls = servers.iter().map(|server| server.url()).chain(sentinel.urls());
    let running: Vec<_> = urls.map(|url| process(&url)).collect();
    let directories: Vec<_> =
        servers.iter().map(|server| server.directory().to_path_buf()).collect();
    assert_eq!(alive(&running).len(), 5);
    drop(sentinel);
    assert_eq!(alive(&running), [] as [&str; 0]);
    assert!(directories.iter().all(|directory| !directory.exists()));
}

/// The master's address, as each of the Sentinels tells it.
fn masters(sentinel: &RedisSentinel) -> Vec<String> {
    let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", RedisSentinel::MASTER];
    sentinel.urls().iter().map(|url| answer(url, &ask).replace('\n', ":")).collect()
}
