"""Models that answer: which are served, when their engines run, and who gets a slot.

roster     which releases are served, and how: kept over a restart
line       slots, and the bounded queue before them
room       pure: what must go so that a model fits into memory
checking   that the bytes an engine will see are the ones that were signed
loading    from a served release to a command line: policy, bytes, headers, conversion, estimate
upstream   one request to an engine, or to a server elsewhere
model      one served release as it stands now
running    an engine's life: started, watched, ended
fleet      it all together: load on first use, unload when idle, restart with a limit
shown      a served release as the doors show it
verbs      what the owner says: serve, stop, ps

Nothing is imported here: a command that only lists models needs none of it.
"""
