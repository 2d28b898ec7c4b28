use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn what_is_kept_comes_back_and_the_holder_ends_with_it() {
    let root = tempfile::tempdir().unwrap();
    // Started here: the program of a test is no holder.
    let holder = Holder::new("/bin/false".into(), root.path());
    assert!(holder.held().unwrap().is_empty(), "nobody is asked");
    holder.forget("a").unwrap();
    let socket = root.path().join("holder.sock");
    std::fs::write(&socket, "stale").unwrap();
    std::fs::remove_file(&socket).unwrap();
    let thread = std::thread::spawn({
        let socket = socket.clone();
        move || hold(&socket)
    });
    let until = Instant::now() + Duration::from_secs(5);
    while !socket.exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"content").unwrap();
    holder.keep("a", file.as_fd()).unwrap();
    holder.keep("b", file.as_fd()).unwrap();
    drop(file);
    hold(&socket).unwrap();
    let names = || holder.held().unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(), ["a", "b"]);
    holder.forget("b").unwrap();
    holder.forget("never was").unwrap();
    let mut held = holder.held().unwrap();
    let mut copy = std::fs::File::from(held.pop().unwrap().1);
    assert!(held.is_empty());
    let mut text = String::new();
    copy.rewind().unwrap();
    copy.read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    // Nonsense ends a conversation and nothing else.
    let stream = UnixStream::connect(&socket).unwrap();
    send(&stream, "sing", "", None).unwrap();
    assert!(receive(&stream).unwrap().is_none());
    assert_eq!(names(), ["a"]);
    holder.forget("a").unwrap();
    thread.join().unwrap().unwrap();
    assert!(!socket.exists());
}

#[test]
fn a_holder_that_ends_at_once_tells_why() {
    let root = tempfile::tempdir().unwrap();
    let began = Instant::now();
    for (program, why) in [("/bin/false", "exit status: 1"), ("/bin/ls", "option '--hold'")] {
        let error = Holder::new(program.into(), root.path()).check().unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    assert!(began.elapsed() < PATIENCE, "it was waited for");
}

/// One that cannot be started when the first has ended is tried again, and given all.
#[test]
fn a_holder_is_started_until_there_is_one() {
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("holder.sock");
    let run = || {
        let at = socket.clone();
        let thread = std::thread::spawn(move || hold(&at));
        let until = Instant::now() + Duration::from_secs(5);
        while !socket.exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        thread
    };
    let (holder, other) = (Holder::new("/bin/false".into(), root.path()), root.path().to_owned());
    let other = Holder::new("/bin/false".into(), &other);
    let first = run();
    let file = tempfile::tempfile().unwrap();
    holder.keep("a", file.as_fd()).unwrap();
    holder.keep("b", file.as_fd()).unwrap();
    for name in ["a", "b"] {
        other.forget(name).unwrap();
    }
    first.join().unwrap().unwrap();
    // Longer than it takes to find out that there is none.
    std::thread::sleep(Duration::from_millis(500));
    let second = run();
    // One that is asked and has nothing ends: it is not asked before it was given all.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(holder.held().unwrap().len(), 2);
    for name in ["a", "b"] {
        holder.forget(name).unwrap();
    }
    second.join().unwrap().unwrap();
}
