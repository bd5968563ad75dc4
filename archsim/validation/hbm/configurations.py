"""The reference simulators' configurations, by the names in the reference file, as channels of the cycle model."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from archsim.errors import InputError
from archsim.hardware.document import read_document
from archsim.program.address_map import AddressMap, Organisation
from archsim.program.dram import Controller, DramChannels, DramTiming
from archsim.validation.suite import DATA
from archsim.validation.table import Record

__all__ = ["channels_of"]

REFRESH = {"all-bank": "all_bank", "none": "none", "per-bank": "per_bank", "off(tREFI huge)": "none"}
#: fields above the burst, least significant first
ORDERS = {
    "RoBaRaCoCh": ("column", "pseudo_channel", "stack_id", "bank_group", "bank", "row"),
    "RoSidBaCoBgPc(custom)": ("pseudo_channel", "bank_group", "column", "bank", "stack_id", "row"),
    "MOP4CLXOR": ("column[0:2]", "pseudo_channel", "stack_id", "bank_group", "bank", "column[2:5]", "row"),
    "rorabgbachco": ("column", "bank", "bank_group", "row"),
    "rorabacobgch": ("bank_group", "column", "bank", "row"),
    "rorabacochbg": ("bank_group", "column", "bank", "row"),
}
_RAMULATOR = re.compile(r"ram_(\w+?)_\d+ch_.*_(open|cap)\.yaml")
_DRAMSIM = re.compile(r"ds3_(\w+?)_\d+ch_.*\.ini")


@cache
def _configurations() -> dict[str, Any]:
    return read_document(DATA / "dram_configs.yaml", "dram_configs.yaml").data


def channels_of(row: Record) -> DramChannels:
    """The channels that a row of the reference file was measured on."""
    file = row.text("config_file")
    ramulator, dramsim = _RAMULATOR.fullmatch(file), _DRAMSIM.fullmatch(file)
    if ramulator:
        return _ramulator(row, ramulator[1], closed=ramulator[2] == "cap")
    if dramsim:
        return _dramsim(row, dramsim[1])
    raise InputError(f"{row.place}: config_file is '{file[:60]}', but must begin with ram_ or ds3_")


def _find(row: Record, simulator: str, name: str) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = _configurations()[simulator]["configs"]
    if name not in known:
        raise InputError(f"{row.place}: unknown configuration '{name[:40]}'; there are {', '.join(known)}")
    return known[name]


def _order(row: Record, name: str) -> tuple[str, ...]:
    if name not in ORDERS:
        raise InputError(f"{row.place}: address_mapping is '{name[:40]}', but must be one of {', '.join(ORDERS)}")
    return ORDERS[name]


def _ramulator(row: Record, name: str, *, closed: bool) -> DramChannels:
    found = _find(row, "ramulator2.1", name)
    organisation = Organisation(
        found["pseudo_channels_per_channel"], found["sid"], found["bank_groups"], found["banks_per_group"],
        found["rows"],
        found["bursts_per_row"], found["request_bytes"],
    )  # fmt: skip
    mapping, _, interleave = row.text("address_mapping").partition("+")
    xor: dict[str, str] = {}
    if mapping == "MOP4CLXOR":  # column bits, from the lowest on, go into one field after the other
        at = 0
        for field in ("pseudo_channel", "stack_id", "bank_group", "bank"):
            if bits := organisation.bits[field]:
                xor[field] = f"column[{at}:{min(at + bits, organisation.bits['column'])}]"
                at += bits
    where = AddressMap(
        organisation, _order(row, mapping), row.integer("channels"), 256 if interleave == "ch@bit8" else 32, xor
    )
    queue = {"read_queue": row.integer("read_queue"), "write_queue": row.integer("write_queue")}
    controller = Controller(
        scheduler="row_hits_first" if row.text("scheduler") == "FRFCFS-RowHit" else "oldest_first",
        refresh=REFRESH[row.text("refresh")],  # type: ignore[arg-type]
        row_policy="closed" if closed else "open",
        row_hit_cap=4 if closed else 0,
        **queue,
    )
    return DramChannels(f"{row.place} {name}", where, _ramulator_timing(found), controller)


def _ramulator_timing(found: dict[str, Any]) -> DramTiming:
    clocks, ticks, held = found["timing_CK"], found["ticks_per_CK"], found["command_bus_cycles_CK"]

    def t(name: str, default: str | None = None) -> int:
        return int(clocks.get(name, clocks.get(default, 0)) * ticks)

    rtw = t("nRTW") or t("nCL") + t("nBL") + 2 * ticks - t("nCWL")
    return DramTiming(
        tick_ps=found["tCK_ns"] * 1000 / ticks, ticks_per_clock=ticks, bl=t("nBL"), cl=t("nCL"), cwl=t("nCWL"),
        rcd_rd=t("nRCDRD"), rcd_wr=t("nRCDWR"), rp=t("nRP"), ras=t("nRAS"), rc=t("nRC"), wr=t("nWR"),
        rtp=t("nRTP", "nRTPL"), ccd_s=t("nCCDS"), ccd_l=t("nCCDL"), ccd_r=t("nCCDR", "nCCDS"), rrd_s=t("nRRDS"),
        rrd_l=t("nRRDL"), wtr_s=t("nWTRS"), wtr_l=t("nWTRL"), rtw=rtw, faw=t("nFAW"), ppd=t("nPPD"), refi=t("nREFI"),
        rfc=t("nRFC"), refi_pb=t("nREFIpb"), rfc_pb=t("nRFCpb"), rrefd=t("nRREFD"), act_ticks=int(held["ACT"] * ticks),
        pre_ticks=int(held["PREpb"] * ticks), col_ticks=int(held["RD"] * ticks), ref_ticks=int(held["REFab"] * ticks),
    )  # fmt: skip


def _dramsim(row: Record, name: str) -> DramChannels:
    found = _find(row, "dramsim3", name)
    structure, t = found["ini"]["dram_structure"], found["ini"]["timing"]
    burst = structure["BL"] // 2
    ccd_s = max(burst, t["tCCD_S"])
    mapping = row.text("address_mapping")
    request, row_bytes = found["request_bytes"], found["row_bytes"]
    organisation = Organisation(
        1, 1, structure["bankgroups"], structure["banks_per_group"], structure["rows"], row_bytes // request, request
    )
    channels = row.integer("channels")
    # where the channel bits stand in the name: above the column, or above the bank group
    above = row_bytes if mapping == "rorabgbachco" else request * structure["bankgroups"]
    where = AddressMap(organisation, _order(row, mapping), channels, above if channels > 1 else request)
    timing = DramTiming(  # tRTP and tRTRS have defaults in the code of DRAMsim3; tRC is tRAS + tRP
        tick_ps=t["tCK"] * 1000, ticks_per_clock=1, bl=burst, cl=t["CL"], cwl=t["CWL"], rcd_rd=t["tRCDRD"],
        rcd_wr=t["tRCDWR"], rp=t["tRP"], ras=t["tRAS"], rc=t["tRAS"] + t["tRP"], wr=t["tWR"], rtp=t.get("tRTP", 5),
        ccd_s=ccd_s, ccd_l=max(burst, t["tCCD_L"]), ccd_r=ccd_s, rrd_s=t["tRRD_S"], rrd_l=t["tRRD_L"],
        wtr_s=t["tWTR_S"],
        wtr_l=t["tWTR_L"], rtw=t["CL"] + burst - t["CWL"] + t.get("tRTRS", 2), faw=t["tFAW"], refi=t["tREFI"],
        rfc=t["tRFC"],
    )  # fmt: skip
    controller = Controller(
        scheduler="bank_queues", read_queue=row.integer("read_queue"), write_queue=row.integer("write_queue"),
        drain_high=1.0, drain_low=8 / row.integer("write_queue"), row_hit_cap=4,
        refresh=REFRESH[row.text("refresh")],  # type: ignore[arg-type]
    )  # fmt: skip
    return DramChannels(f"{row.place} {name}", where, timing, controller)
