"""The cluster: which worker owns which slot. The ring proposes, the store decides, leases bound what a lost worker may do."""
