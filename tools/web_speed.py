"""How fast the page's decoder is, in a headless Chromium, beside the command on the same files.

    python tools/web_speed.py [--image ../shared/data/kodak/kodim05.png] [--megapixels 0.4,2,12] [--quality 50] [--json OUT]

For every size the browser decodes the file twice: as a page does that was just opened (weights from the browser's cache, networks not made
yet), and once more. The decoder's worker runs with `--threads` threads on a page that is cross-origin isolated, and with one on a page that is not.
CPU seconds are those of all the browser's processes, and say more than seconds where other programs run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

from bench import mirrored
from browser import ISOLATION, Browser, static_server

from looc_codec import api, registry
from looc_codec.webpage import write_page

DECODE = """
const decode = async (address, threads) => {
  const { createDecoder } = await import('/client.js');
  globalThis.shared ??= createDecoder({ threads });
  const bytes = await (await fetch(address)).arrayBuffer();
  const start = performance.now();
  const found = {};
  const since = () => (performance.now() - start) / 1000;
  await shared.decode(bytes, {
    onCoarse: () => (found.coarse_seconds ??= since()),
    onProgress: (fraction, stage) => { if (stage === 'pixels') found.codes_seconds ??= since(); },
  });
  return { ...found, seconds: since() };
};
globalThis.found = null;
decode(...arguments).then((found) => { globalThis.found = found; }, (error) => { globalThis.found = { error: error.message }; });
"""
LONGEST_SECONDS = 1200


def cpu_seconds(ancestor: int) -> float:
    """CPU time of a process and all that it started, as far as they still run; Linux only."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
        ticks[int(path.parent.name)] = int(fields[11]) + int(fields[12])

    def below(process: int) -> bool:
        while process in parents and process != ancestor:
            process = parents[process]
        return process == ancestor

    return sum(ticks[process] for process in ticks if below(process)) / os.sysconf("SC_CLK_TCK")


def decoded(browser: Browser, name: str, threads: int) -> dict:
    """What the page says of a decode, which may take longer than the driver lets a script run."""
    browser.run(DECODE, name, threads)
    found = browser.wait_for("globalThis.found", seconds=LONGEST_SECONDS)
    if "error" in found:
        sys.exit(found["error"])
    return found


def browser_rows(folder: Path, names: dict[float, str], threads: int) -> list[dict]:
    rows = []
    with static_server(folder, ISOLATION if threads > 1 else None) as address, Browser() as browser:
        browser.open(f"{address}/speed.html")
        decoded(browser, "tiny.looc", threads)
        for megapixels, name in names.items():
            # A new page has a worker of its own, whose networks are not made yet.
            browser.open(f"{address}/speed.html")
            for state in ("first", "again"):
                before = cpu_seconds(browser._driver.pid)
                found = decoded(browser, name, threads)
                found["cpu_seconds"] = cpu_seconds(browser._driver.pid) - before
                rows.append({"megapixels": megapixels, "threads": threads, "state": state} | found)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, default=ROOT.parent / "shared" / "data" / "kodak" / "kodim05.png")
    parser.add_argument("--megapixels", default="0.4,2,12")
    parser.add_argument("--quality", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model = api.load_model()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_page(folder, [entry for entry in registry.installed_models() if entry.fingerprint == model.fingerprint], force=True)
        (folder / "speed.html").write_text("<!doctype html><title>speed</title><link rel=icon href=data:,>")
        names = {}
        for megapixels in map(float, arguments.megapixels.split(",")):
            names[megapixels] = f"{megapixels:g}.looc"
            (folder / names[megapixels]).write_bytes(api.compress(mirrored(arguments.image, megapixels), quality=arguments.quality, model=model))
        (folder / "tiny.looc").write_bytes(api.compress(mirrored(arguments.image, 0.001), quality=arguments.quality, model=model))
        rows = []
        for threads in sorted({1, arguments.threads}):
            for megapixels, name in names.items():
                data = (folder / name).read_bytes()
                times = []
                for _ in range(2):
                    start, cpu = time.perf_counter(), time.process_time()
                    api.decompress(data, model=model, threads=threads)
                    times.append((time.perf_counter() - start, time.process_time() - cpu))
                seconds, cpu = (statistics.median(column) for column in zip(*times, strict=True))
                rows.append({"megapixels": megapixels, "threads": threads, "state": "command", "seconds": seconds, "cpu_seconds": cpu})
            rows += browser_rows(folder, names, threads)
    print("| MP | threads | | coarse s | codes s | all s | CPU s |\n|---|---|---|---|---|---|---|")
    for row in rows:
        numbers = " | ".join(f"{row[key]:.2f}" if key in row else "" for key in ("coarse_seconds", "codes_seconds", "seconds", "cpu_seconds"))
        print(f"| {row['megapixels']:g} | {row['threads']} | {row['state']} | {numbers} |")
    print(f"load of the machine: {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
