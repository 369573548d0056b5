"""Capacity search, hill climbs, profiler and tuner, for live and for virtual trials alike."""
