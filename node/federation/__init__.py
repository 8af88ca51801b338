"""Peers that answer in this node's place, and how much of what they say is believed.

choose      pure: who is asked first, who is left alone
events      pure: server-sent events of a stranger, cut; a model's name in what goes by
asking      one peer is asked; its digest and its receipt are checked
survey      who serves a model now, near and far
federation  ``Inference``: this node's engines first, then peers

What this node answers to others is ``node.api.answers``.
"""
