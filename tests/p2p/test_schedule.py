"""The scheduler's promises, kept in simulated time: a fetch of simulated sources, no network."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.cid import Hash
from p2p.dag import Outline
from p2p.ranges import RangeSet
from p2p.schedule import Swarm, Task, Wait

MIB = 1 << 20


def file_of(*sizes: int) -> Outline:
    return Outline.build(sizes, bytes(32 * len(sizes)), Hash.BLAKE3)


def every_leaf(files: Sequence[Outline]) -> list[RangeSet]:
    return [RangeSet([(0, len(outline))]) for outline in files]


@dataclass
class Link:
    """A simulated source: bytes a second for each worker, and what goes wrong with it when."""

    rate: float
    stalls_at: float = float("inf")
    dies_at: float = float("inf")
    have: Mapping[int, RangeSet] | None = None
    workers: int = 1
    bytes: int = 0


@dataclass
class Run:
    """What a simulated fetch did."""

    seconds: float = 0.0
    read: int = 0  # bytes, with those that were read twice
    leaves: set[tuple[int, int]] = field(default_factory=set)


def simulate(swarm: Swarm, files: Sequence[Outline], links: dict[str, Link]) -> Run:
    """Run every worker of every link against the swarm, one leaf an event, in simulated time."""
    run = Run()
    queue: list[tuple[float, int, str, Task | None]] = []
    for name, link in links.items():
        swarm.join(name, link.have)
        for _ in range(link.workers):
            queue.append((0.0, len(queue), name, None))
    count = len(queue)
    while queue:
        now, _, name, task = heapq.heappop(queue)
        assert now < 10_000, "the fetch hangs"
        link = links[name]
        if now >= link.dies_at:
            if task is not None:
                swarm.release(task)
            swarm.leave(name)
            continue
        if task is not None:
            start, stop = files[task.file].span(task.position, task.position + 1)
            run.read += stop - start
            link.bytes += stop - start
            run.leaves.add((task.file, task.position))
            if not swarm.advance(task, 1, now):
                swarm.release(task)
                task = None
            if swarm.finished and not run.seconds:
                run.seconds = now
        if task is None:
            answer = swarm.next(name, now)
            if answer is None:
                continue
            if isinstance(answer, Wait):
                assert answer.until > now
                count += 1
                heapq.heappush(queue, (answer.until, count, name, None))
                continue
            task = answer
        start, stop = files[task.file].span(task.position, task.position + 1)
        later = now + max(stop - start, 1) / link.rate
        if later >= link.stalls_at:
            continue  # it stays silent for ever, holding its task
        count += 1
        heapq.heappush(queue, (later, count, name, task))
    return run


def wanted_set(wanted: Sequence[RangeSet]) -> set[tuple[int, int]]:
    return {
        (file, leaf)
        for file, leaves in enumerate(wanted)
        for a, b in leaves
        for leaf in range(a, b)
    }


def test_one_source_reads_everything_once() -> None:
    """With one source every wanted leaf is read exactly once, and nothing else."""
    files = [file_of(*[MIB] * 40), file_of(10), file_of(*[MIB] * 3, 7)]
    wanted = [RangeSet([(3, 17), (20, 40)]), RangeSet([(0, 1)]), RangeSet([(3, 4)])]
    run = simulate(Swarm(files, wanted, origin=11), files, {"a": Link(10 * MIB)})
    assert run.leaves == wanted_set(wanted)
    assert run.read == 34 * MIB + 17


def test_faster_sources_get_more_and_the_sum_of_the_rates_is_used() -> None:
    """Links of 40, 20 and 5 MiB/s carry a file nearly as fast as one of 65 MiB/s would."""
    files = [file_of(*[MIB] * 1000)]
    links = {"a": Link(40 * MIB), "b": Link(20 * MIB), "c": Link(5 * MIB)}
    run = simulate(Swarm(files, every_leaf(files)), files, links)
    assert run.seconds < 1.08 * 1000 / 65
    assert run.read <= 1004 * MIB
    assert links["a"].bytes > 1.7 * links["b"].bytes > 3 * links["c"].bytes


def test_the_end_does_not_wait_for_the_slowest() -> None:
    """A source a thousand times slower adds almost nothing to the time of the fast one alone."""
    files = [file_of(*[MIB] * 200)]
    run = simulate(
        Swarm(files, every_leaf(files)),
        files,
        {"slow": Link(0.05 * MIB), "fast": Link(50 * MIB)},
    )
    assert run.seconds < 1.35 * 200 / 50


def test_a_stalled_source_loses_its_range() -> None:
    """A source that falls silent for ever holds up nothing: its leaves come from elsewhere."""
    files = [file_of(*[MIB] * 100)]
    links = {"stalls": Link(20 * MIB, stalls_at=1.0), "works": Link(20 * MIB)}
    run = simulate(Swarm(files, every_leaf(files)), files, links)
    assert run.leaves == wanted_set(every_leaf(files))
    assert run.seconds < 6.5


def test_a_source_that_dies_gives_back_what_it_held() -> None:
    """When a source leaves in the middle of a range the others read the rest."""
    files = [file_of(*[MIB] * 100)]
    links = {"dies": Link(30 * MIB, dies_at=0.7), "works": Link(10 * MIB)}
    run = simulate(Swarm(files, every_leaf(files)), files, links)
    assert run.leaves == wanted_set(every_leaf(files))
    assert links["works"].bytes >= 79 * MIB


def test_several_workers_of_one_source_share_its_work() -> None:
    """Workers of one source never steal from each other and read nothing twice."""
    files = [file_of(*[MIB] * 64)]
    run = simulate(Swarm(files, every_leaf(files)), files, {"a": Link(5 * MIB, workers=4)})
    assert run.read == 64 * MIB


def test_a_partial_holder_gives_what_it_has_and_starves_after() -> None:
    """A source that holds some leaves is asked for those only, and told that it has no more."""
    files = [file_of(*[MIB] * 10), file_of(*[MIB] * 4)]
    swarm = Swarm(files, every_leaf(files))
    swarm.join("part", {0: RangeSet([(2, 5)]), 1: RangeSet([(3, 4)])})
    seen = set()
    while isinstance(task := swarm.next("part", 0.0), Task):
        seen |= {(task.file, leaf) for leaf in range(task.position, task.stop)}
        swarm.advance(task, task.stop - task.position, 0.1)
        swarm.release(task)
    assert seen == {(0, 2), (0, 3), (0, 4), (1, 3)}
    assert isinstance(task, Wait)
    assert task.starved
    swarm.join("part", {0: RangeSet([(0, 10)])})  # it has got more meanwhile
    assert isinstance(swarm.next("part", 1.0), Task)


def test_different_origins_begin_in_different_places() -> None:
    """Two nodes that fetch at once do not ask for the same leaves first."""
    files = [file_of(*[MIB] * 100)]
    firsts = set()
    for origin in (0, 30, 61, 199):
        swarm = Swarm(files, every_leaf(files), origin=origin)
        swarm.join("a", None)
        task = swarm.next("a", 0.0)
        assert isinstance(task, Task)
        firsts.add(task.first)
    assert firsts == {0, 30, 61, 99}


def test_a_leaf_is_never_read_three_times() -> None:
    """The last leaf of a late source is given to one other worker, not to all of them."""
    files = [file_of(MIB)]
    swarm = Swarm(files, every_leaf(files))
    for name in "abc":
        swarm.join(name, None)
    first = swarm.next("a", 0.0)
    assert isinstance(first, Task)
    assert isinstance(swarm.next("b", 0.1), Wait), "not late yet"
    second = swarm.next("b", 60.0)
    assert isinstance(second, Task)
    assert isinstance(swarm.next("c", 60.0), Wait)
    assert not swarm.advance(second, 1, 61.0)
    assert swarm.finished
    assert swarm.remaining == 0
    assert swarm.next("c", 61.0) is None
    assert not swarm.advance(first, 1, 62.0), "the late copy changes nothing"
    assert swarm.remaining == 0


def test_a_leaf_whose_readers_are_all_late_is_read_once_more() -> None:
    """Two sources that fall silent over the same leaf do not keep it from a third."""
    files = [file_of(MIB)]
    links = {"one": Link(MIB, stalls_at=0.1), "two": Link(MIB, stalls_at=0.1)}
    run = simulate(Swarm(files, every_leaf(files)), files, links | {"good": Link(MIB / 100)})
    assert run.leaves == {(0, 0)}
    files = [file_of(1, 1, 1, 1, 1, 492)]
    run = simulate(
        Swarm(files, every_leaf(files), origin=1),
        files,
        {"one": Link(1, stalls_at=0.0), "two": Link(1, stalls_at=0.0), "good": Link(1000)},
    )
    assert run.leaves == wanted_set(every_leaf(files))


def test_a_task_that_is_read_but_not_released_is_nobodys_victim() -> None:
    """Between its last leaf and its release a task has nothing to give."""
    files = [file_of(MIB, MIB), file_of(MIB)]
    swarm = Swarm(files, every_leaf(files))
    swarm.join("a", None)
    swarm.join("b", None)
    read = swarm.next("a", 0.0)
    late = swarm.next("a", 0.0)
    assert isinstance(read, Task)
    assert isinstance(late, Task)
    swarm.advance(read, 2, 0.1)
    stolen = swarm.next("b", 60.0)
    assert isinstance(stolen, Task)
    assert stolen.file == late.file
    assert isinstance(swarm.next("b", 60.0), Wait)


def test_a_banned_source_gets_nothing_more() -> None:
    """After leave() a source has no work, and what it held is free at once."""
    files = [file_of(*[MIB] * 8)]
    swarm = Swarm(files, every_leaf(files))
    swarm.join("liar", None)
    task = swarm.next("liar", 0.0)
    assert isinstance(task, Task)
    swarm.leave("liar")
    swarm.leave("liar")
    swarm.release(task)
    assert swarm.next("liar", 0.0) is None
    assert swarm.sources == []
    assert swarm.rate("liar") == 0.0
    swarm.join("honest", None)
    run = simulate(swarm, files, {"honest": Link(MIB)})
    assert run.leaves == wanted_set(every_leaf(files))


def test_files_complete_one_by_one() -> None:
    """A file is complete as soon as its own wanted leaves are verified."""
    files = [file_of(1), file_of(2), file_of(0)]
    swarm = Swarm(files, [RangeSet([(0, 1)]), RangeSet(), RangeSet([(0, 1)])])
    assert [swarm.complete(file) for file in range(3)] == [False, True, False]
    swarm.join("a", None)
    task = swarm.next("a", 0.0)
    assert isinstance(task, Task)
    swarm.advance(task, 1, 0.0)
    swarm.release(task)
    assert [swarm.complete(file) for file in range(3)] == [True, True, False]
    assert not swarm.finished


def test_a_hundred_thousand_small_files_are_scheduled_quickly() -> None:
    """Choosing costs about the same with many files as with few (counted, not timed)."""
    files = [file_of(100)] * 100_000
    swarm = Swarm(files, every_leaf(files), origin=12345)
    swarm.join("a", None)
    for _ in range(1000):
        task = swarm.next("a", 0.0)
        assert isinstance(task, Task)
        swarm.advance(task, 1, 0.0)
        swarm.release(task)
    assert swarm.remaining == 99_000 * 100


sizes = st.lists(st.integers(1, 3 * 1024), min_size=1, max_size=12) | st.just([0])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(sizes, min_size=1, max_size=4),
    st.lists(
        st.tuples(
            st.integers(1, 4096),
            st.one_of(st.none(), st.floats(0, 5)),
            st.one_of(st.none(), st.floats(0, 5)),
            st.integers(1, 3),
        ),
        max_size=5,
    ),
    st.integers(0, 1000),
)
def test_whatever_happens_everything_arrives_while_one_source_lives(
    shape: list[list[int]],
    troubles: list[tuple[int, float | None, float | None, int]],
    origin: int,
) -> None:
    """Any mix of stalling, dying, slow and fast sources beside one good one ends complete."""
    files = [file_of(*leaves) for leaves in shape]
    links = {"good": Link(1000.0)}
    for n, (rate, stall, death, workers) in enumerate(troubles):
        links[f"s{n}"] = Link(
            float(rate),
            stalls_at=float("inf") if stall is None else stall,
            dies_at=float("inf") if death is None else death,
            workers=workers,
        )
    swarm = Swarm(files, every_leaf(files), origin=origin)
    run = simulate(swarm, files, links)
    assert swarm.finished
    assert swarm.remaining == 0
    assert run.leaves == wanted_set(every_leaf(files))


@pytest.mark.parametrize("origin", [0, 5])
def test_nothing_wanted_is_finished_at_once(origin: int) -> None:
    """A fetch of what is all there already has no work for anybody."""
    files = [file_of(MIB)]
    swarm = Swarm(files, [RangeSet()], origin=origin)
    swarm.join("a", None)
    assert swarm.finished
    assert swarm.next("a", 0.0) is None


def test_runs_get_shorter_towards_the_end() -> None:
    """Two workers of one fast source end at about the same time, though neither helps the other."""
    files = [file_of(*[MIB] * 400)]
    swarm = Swarm(files, every_leaf(files))
    run = simulate(swarm, files, {"a": Link(200 * MIB, workers=2)})
    assert run.seconds < 1.06
    assert run.read == 400 * MIB


def test_small_files_are_handed_out_together() -> None:
    """A worker gets further files of one leaf up to its share, and what it leaves is free again."""
    files = [file_of(1000) for _ in range(100)] + [file_of(MIB, MIB)]
    swarm = Swarm(files, every_leaf(files))
    swarm.join("a", None)
    task = swarm.next("a", 0.0)
    assert isinstance(task, Task)
    tasks, size = [task], 1000
    while (more := swarm.more(tasks[-1], size, 0.0)) is not None:
        tasks.append(more)
        size += 1000
    assert [one.file for one in tasks] == list(range(100))
    for one in tasks[:40]:
        swarm.advance(one, 1, 0.0)
    for one in tasks:
        swarm.release(one)
    assert swarm.remaining == 2 * MIB + 60_000
    again = swarm.next("a", 1.0)
    assert isinstance(again, Task)
    assert swarm.more(again, size=5 * MIB, now=1.0) is None


def test_nobody_gets_small_files_that_are_elsewhere() -> None:
    """Further files are only those that the source has, and none once it has left."""
    files = [file_of(1000) for _ in range(4)] + [file_of(*[MIB] * 50)]
    swarm = Swarm(files, every_leaf(files))
    swarm.join("a", {0: RangeSet([(0, 1)]), 3: RangeSet([(0, 1)])})
    task = swarm.next("a", 0.0)
    assert isinstance(task, Task)
    more = swarm.more(task, 1000, 0.0)
    assert more is not None
    assert more.file == 3
    assert swarm.more(more, 2000, 0.0) is None
    swarm.leave("a")
    assert swarm.more(task, 1000, 0.0) is None
