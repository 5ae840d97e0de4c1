"""CNI 0.1.0 to 1.1.0 on hostd's socket: `gantry` as main plugin, `gantry-ipam` as IPAM plugin of others.

The plugins on the host are `services/hostd/shim/gantry-cni` under two names. It forwards what a runtime gives it;
all of the protocol is here. Source of the protocol's facts: the CNI specification 1.1.0 and its CONVENTIONS.md.
"""
