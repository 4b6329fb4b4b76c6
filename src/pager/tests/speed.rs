//! How fast it is: `cargo test --release -p kup pager::tests::speed -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::kit::{Criu, Image, Nobody, alone, never, service};
use crate::pager::Pager;
use crate::store::{Extent, Memory, PAGE};
use crate::sys::watched::{self, Watched};

#[test]
#[ignore = "measures only"]
fn fill_and_faults() {
    alone("speed::fill_and_faults", measure);
}

fn measure() {
    const PAGES: u64 = 256 << 10;
    let uffd = watched::open().expect("userfaultfd");
    let memory = Watched::map(Some(&uffd), PAGES * PAGE);
    let extents = vec![Extent { start: memory.start, pages: PAGES, lazy: true }];
    let image: Arc<dyn Memory> = Arc::new(Image { extents, slow: Duration::ZERO, bad: None });
    let dir = tempfile::tempdir().unwrap();
    let pager = Pager::listen(dir.path(), 1).unwrap();
    std::thread::scope(|scope| {
        let pager = scope.spawn({
            let image = &image;
            move || pager.run(&service(&|_| Ok(image.clone()), &Nobody, &never))
        });
        let mut criu = Criu::connect(dir.path());
        criu.task(std::process::id() as i32, &uffd);
        drop(uffd);
        memory.read(0);
        let mut times: Vec<Duration> = (1..2000)
            .map(|n| {
                let begin = Instant::now();
                memory.read(n * 37 * PAGE);
                begin.elapsed()
            })
            .collect();
        times.sort();
        println!("fault: median {:?}, 99 % {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
        let begin = Instant::now();
        criu.finish();
        let report = pager.join().unwrap().unwrap();
        let gigabytes = report.filled as f64 / 1e9;
        println!("fill: {gigabytes:.2} GB in all at {:.2} GB/s, {report:?}", gigabytes / begin.elapsed().as_secs_f64());
    });
}
