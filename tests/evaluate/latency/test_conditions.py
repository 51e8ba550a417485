"""The machine's state during a measurement: from prepared folders, and from a double of NVML."""

import inspect
import os
import stat
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploykit.core.values import DeviceConditions
from deploykit.evaluate.latency import jetson, nvml
from deploykit.evaluate.latency.conditions import record_conditions
from deploykit.evaluate.latency.processor import read_processor


class Machine:
    """A folder that replaces / of a machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def says(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def zone(self, number: int, kind: str, temperature: str) -> None:
        self.says(f"sys/class/thermal/thermal_zone{number}/type", f"{kind}\n")
        self.says(f"sys/class/thermal/thermal_zone{number}/temp", f"{temperature}\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """This process may run on its processors 0 and 2."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    return Machine(tmp_path)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """A machine without nvidia-ml-py."""
    monkeypatch.setitem(sys.modules, "pynvml", None)


# ── The processor ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_clocks_and_governors_are_those_of_the_processors_that_one_may_run_on(machine):
    for number, (clock, governor) in enumerate(
        [("2400000", "powersave"), ("9", "userspace"), ("3600000", "schedutil")]
    ):
        machine.says(f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq", f"{clock}\n")
        machine.says(f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_governor", f"{governor}\n")
    conditions = DeviceConditions("CPU", "sysfs", clock_mhz=(2400.0, 3600.0), power_mode="powersave, schedutil")
    assert read_processor(machine.root) == conditions


def test_without_cpufreq_the_clock_is_read_from_proc(machine):
    blocks = [
        f"processor\t: {number}\ncpu MHz\t\t: {clock}\n" for number, clock in enumerate(("2000.1", "1", "2500.5"))
    ]
    machine.says("proc/cpuinfo", "\n".join(blocks))
    assert read_processor(machine.root) == DeviceConditions("CPU", "/proc/cpuinfo", clock_mhz=(2000.1, 2500.5))


@pytest.mark.parametrize("kind", ["x86_pkg_temp", "cpu-thermal", "CPU-therm"])
def test_the_temperature_is_that_of_the_processors_zones(machine, kind):
    machine.zone(0, "acpitz", "27800")
    machine.zone(1, kind, "51500")
    machine.zone(2, kind, "49000")
    assert read_processor(machine.root).temperature_c == (49.0, 51.5)


def test_without_a_processor_zone_a_core_sensor_is_read(machine):
    machine.zone(0, "acpitz", "27800")
    machine.says("sys/class/hwmon/hwmon0/name", "nvme\n")
    machine.says("sys/class/hwmon/hwmon0/temp1_input", "33000\n")
    machine.says("sys/class/hwmon/hwmon1/name", "k10temp\n")
    machine.says("sys/class/hwmon/hwmon1/temp1_input", "61250\n")
    machine.says("sys/class/hwmon/hwmon1/temp3_input", "58000\n")
    assert read_processor(machine.root).temperature_c == (58.0, 61.25)


def test_a_machine_without_readings_has_no_conditions(machine):
    assert read_processor(machine.root) == DeviceConditions("CPU", "/proc/cpuinfo")


@pytest.mark.parametrize("text", ["", "\n", "N/A\n", "\0"])
def test_non_numeric_text_reads_as_none(machine, text):
    machine.zone(0, "x86_pkg_temp", text)
    machine.says("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", text)
    assert read_processor(machine.root) == DeviceConditions("CPU", "/proc/cpuinfo")


def test_a_failing_sensor_is_omitted(machine):
    machine.zone(0, "cpu-thermal", "50000")
    machine.says("sys/class/thermal/thermal_zone1/type", "cpu-thermal\n")
    (machine.root / "sys/class/thermal/thermal_zone1/temp").mkdir()  # reading it fails, like a sensor that is off
    assert read_processor(machine.root).temperature_c == (50.0, 50.0)


def test_this_machine_is_read_without_an_error(monkeypatch):
    monkeypatch.undo()
    assert read_processor().device == "CPU"


# ── A Jetson ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ORIN = "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"


@pytest.fixture
def orin(machine):
    machine.says("proc/device-tree/model", f"{ORIN}\0")
    machine.says("sys/class/devfreq/15340000.vic/cur_freq", "435200000\n")
    machine.says("sys/class/devfreq/17000000.ga10b/cur_freq", "918000000\n")
    machine.says("sys/kernel/debug/bpmp/debug/clk/emc/rate", "3199000000\n")
    machine.zone(0, "cpu-thermal", "48000")
    machine.zone(1, "gpu-thermal", "46500")
    machine.says("sys/class/hwmon/hwmon3/name", "ina3221\n")
    for channel, (label, volts, amperes) in enumerate([("VDD_IN", 5080, 1200), ("VDD_CPU_GPU_CV", 5080, 480)], 1):
        machine.says(f"sys/class/hwmon/hwmon3/in{channel}_label", f"{label}\n")
        machine.says(f"sys/class/hwmon/hwmon3/in{channel}_input", f"{volts}\n")
        machine.says(f"sys/class/hwmon/hwmon3/curr{channel}_input", f"{amperes}\n")
    machine.says("sys/class/hwmon/hwmon4/name", "soctherm_oc\n")
    machine.says("sys/class/hwmon/hwmon4/oc1_event_cnt", "7\n")
    machine.says("sys/class/hwmon/hwmon4/oc3_event_cnt", "0\n")
    machine.says("var/lib/nvpmodel/status", "pmode:0002")
    table = (
        "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=15W >\n< PM_CONFIG DEFAULT=2 >\n"
    )
    machine.says("etc/nvpmodel.conf", table)
    return machine


def test_a_jetson_reports_gpu_memory_rail_and_power_mode(orin):
    assert jetson.create_reader(orin.root)() == DeviceConditions(
        ORIN,
        "sysfs, power of VDD_IN",
        clock_mhz=(918.0, 918.0),
        memory_clock_mhz=(3199.0, 3199.0),
        temperature_c=(46.5, 46.5),
        power_w=(6.096, 6.096),
        power_mode="15W",
    )


def test_over_current_events_count_from_the_start_of_the_measurement(orin):
    read = jetson.create_reader(orin.root)
    assert read().throttled == ()
    orin.says("sys/class/hwmon/hwmon4/oc1_event_cnt", "8\n")
    assert read().throttled == ("over-current oc1",)


@pytest.mark.parametrize("clock", ["17000000.gpu", "17000000.gv11b", "gpu-gpc-0"])
def test_the_gpu_clock_is_found_under_each_board_specific_name(orin, clock):
    (orin.root / "sys/class/devfreq/17000000.ga10b").rename(orin.root / "sys/class/devfreq" / clock)
    orin.says("sys/class/devfreq/gpu-nvd-0/cur_freq", "1\n")
    assert jetson.create_reader(orin.root)().clock_mhz == (918.0, 918.0)


def test_power_is_the_gpu_rails_where_the_board_does_not_measure_the_module(orin):
    orin.says("sys/class/hwmon/hwmon3/in1_label", "VDD_GPU_SOC\n")
    assert jetson.create_reader(orin.root)().source == "sysfs, power of VDD_GPU_SOC"


def test_a_jetson_without_readings_still_has_its_name(machine):
    machine.says("proc/device-tree/model", "NVIDIA Jetson AGX Thor\0")
    assert jetson.create_reader(machine.root)() == DeviceConditions("NVIDIA Jetson AGX Thor", "sysfs")


def test_another_board_is_not_a_jetson(machine):
    machine.says("proc/device-tree/model", "Raspberry Pi 5 Model B\0")
    assert jetson.create_reader(machine.root) is None


@pytest.mark.parametrize(
    ("status", "mode"), [("pmode:0000 fmode:quiet", "MAXN"), ("pmode:0007", "mode 7"), ("?", None)]
)
def test_a_power_mode_has_the_name_of_its_number(orin, status, mode):
    orin.says("var/lib/nvpmodel/status", status)
    assert jetson.read_power_mode(orin.root) == mode


@pytest.mark.parametrize(
    ("answer", "mode"), [("echo NV Power Mode: 30W; echo 2", "30W"), ("echo no root >&2; exit 1", None)]
)
def test_without_a_mode_file_the_nvpmodel_program_is_queried(tmp_path, monkeypatch, answer, mode):
    program = tmp_path / "nvpmodel"
    program.write_text(f"#!/bin/sh\n[ $1 = -q ] || exit 9\n{answer}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert jetson.read_power_mode() == mode


# ── NVIDIA's GPUs ─────────────────────────────────────────────────────────────────────────────────────────────────────


class NVMLError(Exception):
    pass


def create_pynvml(**answers):
    """A module pynvml of two GPUs, each result keyed by its function."""

    def asked(name):
        def ask(*arguments):
            calls.append(name)
            answer = answers.get(name, 0)
            if isinstance(answer, Exception):
                raise answer
            return answer(*arguments) if callable(answer) else answer

        return ask

    calls = []
    names = ("nvmlInit", "nvmlShutdown", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName",
             "nvmlDeviceGetClockInfo", "nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage",
             "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")  # fmt: skip
    bits = {f"nvmlClocksThrottleReason{name}": 2 << place for place, name in enumerate(nvml.THROTTLE_REASONS)}
    constants = {"NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0, **bits}
    return SimpleNamespace(calls=calls, **{name: asked(name) for name in names}, **constants)


H200 = {
    "nvmlDeviceGetCount": 1,
    "nvmlDeviceGetHandleByIndex": lambda index: f"handle {index}",
    "nvmlDeviceGetName": "NVIDIA H200",
    "nvmlDeviceGetClockInfo": lambda _, clock: {1: 1980, 2: 3201}[clock],
    "nvmlDeviceGetTemperature": 41,
    "nvmlDeviceGetPowerUsage": 312_500,
    "nvmlDeviceGetCurrentClocksEventReasons": 1,  # idle
}


@pytest.fixture
def gpus(monkeypatch):
    def install(**answers):
        module = create_pynvml(**{**H200, **answers})
        monkeypatch.setitem(sys.modules, "pynvml", module)
        return module

    return install


def read_conditions():
    with nvml.open_readers() as readers:
        return [read() for read in readers]


def test_a_gpu_reports_clocks_temperature_and_power(gpus):
    gpus()
    assert read_conditions() == [
        DeviceConditions(
            "NVIDIA H200",
            "NVML",
            clock_mhz=(1980, 1980),
            memory_clock_mhz=(3201, 3201),
            temperature_c=(41, 41),
            power_w=(312.5, 312.5),
        )
    ]


def test_throttle_reasons_are_named_and_idling_is_not_one(gpus):
    module = gpus()
    held = module.nvmlClocksThrottleReasonSwPowerCap | module.nvmlClocksThrottleReasonHwThermalSlowdown | 1
    gpus(nvmlDeviceGetCurrentClocksEventReasons=held)
    assert read_conditions()[0].throttled == ("power cap", "hardware thermal slowdown")


def test_of_several_gpus_each_has_its_number(gpus):
    gpus(nvmlDeviceGetCount=2)
    assert [condition.device for condition in read_conditions()] == ["NVIDIA H200 0", "NVIDIA H200 1"]


def test_readings_that_a_gpu_does_not_support_are_omitted(gpus):
    gpus(nvmlDeviceGetPowerUsage=NVMLError("Not Supported"), nvmlDeviceGetClockInfo=NVMLError("Not Supported"))
    assert read_conditions() == [DeviceConditions("NVIDIA H200", "NVML", temperature_c=(41, 41))]


def test_older_versions_call_the_reasons_otherwise_and_give_names_as_bytes(gpus):
    module = gpus(nvmlDeviceGetName=b"Tesla T4", nvmlDeviceGetCurrentClocksThrottleReasons=1 << 63)
    del module.nvmlDeviceGetCurrentClocksEventReasons
    assert read_conditions()[0].device == "Tesla T4"
    assert "nvmlDeviceGetCurrentClocksThrottleReasons" in module.calls


def test_the_driver_is_released_at_the_end(gpus):
    module = gpus()
    read_conditions()
    assert (module.calls[0], module.calls[-1]) == ("nvmlInit", "nvmlShutdown")


def test_a_package_without_a_driver_has_no_gpus(gpus):
    gpus(nvmlInit=NVMLError("NVML Shared Library Not Found"))
    assert read_conditions() == []


def test_without_the_package_there_are_no_gpus():
    assert read_conditions() == []


def test_every_name_that_is_used_of_nvml_is_one_of_the_installed_packages(monkeypatch):
    monkeypatch.undo()
    import pynvml

    stand_in = create_pynvml()
    names = [name for name in vars(stand_in) if name.startswith(("nvml", "NVML"))]
    assert len(names) > 15
    assert [name for name in names if not hasattr(pynvml, name)] == []
    arguments = {"nvmlDeviceGetClockInfo": 2, "nvmlDeviceGetTemperature": 2, "nvmlDeviceGetPowerUsage": 1}
    for name, count in arguments.items():
        inspect.signature(getattr(pynvml, name)).bind(*range(count))


# ── Watching ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def wait_until(happened):
    while not happened():
        time.sleep(0.001)


def test_minimum_maximum_and_all_throttle_reasons_are_recorded(gpus):
    clocks, reasons = [1980, 1200, 1500], [0, 4, 0]
    readings = []

    def clock(_, kind):
        if kind == 2:
            return 3201
        readings.append(kind)
        return clocks[min(len(readings), 3) - 1]

    gpus(
        nvmlDeviceGetClockInfo=clock,
        nvmlDeviceGetCurrentClocksEventReasons=lambda _: reasons[min(len(readings), 3) - 1],
    )
    with record_conditions(Path("/nowhere"), interval_s=0.001) as watched:
        wait_until(lambda: len(readings) > 3)
    [condition] = watched.conditions
    assert condition.clock_mhz == (1200, 1980)
    assert condition.throttled == ("power cap",)


def test_even_the_shortest_measurement_has_one_reading(orin):
    with record_conditions(orin.root) as watched:
        assert watched.conditions == ()
    assert [condition.device for condition in watched.conditions] == ["CPU", ORIN]


def test_a_changing_mode_is_reported_in_order(machine, gpus):
    governor = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    machine.says(governor, "powersave")
    module = gpus()
    with record_conditions(machine.root, interval_s=0.001) as watched:
        wait_until(lambda: "nvmlDeviceGetPowerUsage" in module.calls)  # GPUs are read last
        machine.says(governor, "performance")
    assert watched.conditions[0].power_mode == "powersave, then performance"


def test_devices_without_readings_are_omitted(machine):
    with record_conditions(machine.root) as watched:
        pass
    assert watched.conditions == ()


def test_recording_stops_when_the_measurement_fails(machine):
    import threading

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), record_conditions(machine.root, interval_s=0.001):
        raise ZeroDivisionError
    assert threading.active_count() == before
