#include "slab_sectors.h"

#include <cerrno>

namespace kvasir::addon {

void SlabSectors::write(uint64_t number, PageOp* waiter) {
  std::unique_ptr<Sector>& sector = sectors_[number];
  if (sector == nullptr) sector = std::make_unique<Sector>(*this, number);
  if (waiter != nullptr) sector->waiting.push_back(waiter);
  sector->is_asked = true;
  if (!sector->is_written) begin(*sector);
}

void SlabSectors::begin(Sector& sector) {
  sector.riding = std::exchange(sector.waiting, {});
  sector.is_asked = false;
  sector.is_written = true;
  hooks_.encode(sector.number, sector.bytes.get());
  sector.request = IoRequest{};
  sector.request.kind = IoKind::write;
  sector.request.pieces = 1;
  sector.request.memory[0] = {sector.bytes.get(), kSector};
  sector.request.offset = layout_.sector_at(sector.number);
  sector.request.owner = static_cast<IoOwner*>(&sector);
  hooks_.submit(sector.request);
}

void SlabSectors::written(Sector& sector, IoRequest& done) {
  const int error = done.result > 0 ? 0 : done.result < 0 ? static_cast<int>(-done.result) : EIO;
  const std::vector<PageOp*> riders = std::exchange(sector.riding, {});
  const uint64_t number = sector.number;
  // What they do next may ask for this sector again; it begins below.
  for (PageOp* rider : riders) hooks_.passed(*rider, error);
  sector.is_written = false;
  if (sector.is_asked)
    begin(sector);
  else
    sectors_.erase(number);
}

}  // namespace kvasir::addon
