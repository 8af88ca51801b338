"""Programs that run models: what is looked at first, what each can, how it is confined and watched.

weights               a release's folder, looked into before an engine sees a byte of it
dangers, documents    code and pickles refused; JSON read with bounds
gguf_file, repository, headers, tokenizer, facts    which files, and what they say
memory                what a model will take
convert/              safetensors made into GGUF, in a process of its own
converting            that process, started and confined
derived               what was converted, each file with its record
engines               what each engine can, and how it is started
confine, keeper       what an engine may do; that none survives its node
supervisor            an engine's life
xllama, tcp_runner    small programs around engines that need one
"""
