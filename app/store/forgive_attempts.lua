-- Forgets the attempts by a name whose password was proved, and takes that one attempt back from its address.
-- Not to be sent again: it would take back another.
--
-- `of_address`: the counter of the address; empty if it is not known

local of_name_and_address, of_name = unpack(KEYS)
local of_address = {unpack(KEYS, 3)}

redis.call('DEL', of_name_and_address, of_name)
for _, counter in ipairs(of_address) do
  if tonumber(redis.call('HGET', counter, 'count') or 0) > 0 then
    redis.call('HINCRBY', counter, 'count', -1)
  end
end
return 1
