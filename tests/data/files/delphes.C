// Writes delphes.root with ROOT, in the layout of Delphes: root -l -b -q delphes.C+
// 4 events of 2, 0, 1 and 3 jets, 5 tracks and 3 towers each. The constituents of jet j are track j, tower j and, of the
// first jet, track 4; the second jet of the last event has none.
#include "TClonesArray.h"
#include "TFile.h"
#include "TObject.h"
#include "TProcessID.h"
#include "TRefArray.h"
#include "TTree.h"

class SortableObject : public TObject { public: ClassDef(SortableObject, 1) };
class Track : public SortableObject { public: Int_t PID; Float_t PT, Eta, Phi, Mass; ClassDef(Track, 3) };
class Tower : public SortableObject { public: Float_t ET, Eta, Phi, E; TRefArray Particles; ClassDef(Tower, 3) };
class Jet : public SortableObject {
 public:
  Float_t PT, Eta, Phi, Mass; UInt_t Flavor; TRefArray Constituents; ClassDef(Jet, 4)
};

void delphes(const char* path = "delphes.root") {
  TFile file(path, "RECREATE");
  TTree tree("Delphes", "Analysis tree");
  TClonesArray jets("Jet"), tracks("Track"), towers("Tower");
  tree.Branch("EFlowTrack", &tracks, 64000);
  tree.Branch("EFlowPhoton", &towers, 64000);
  tree.Branch("Jet", &jets, 64000);
  const int number[4] = {2, 0, 1, 3};
  for (int event = 0; event < 4; ++event) {
    jets.Clear("C"); tracks.Clear("C"); towers.Clear("C");
    TProcessID::SetObjectCount(0);  // Delphes counts references from 0 in each event
    for (int k = 0; k < 5; ++k) {
      auto* p = (Track*)tracks.ConstructedAt(k);
      p->PID = 211; p->PT = 10 * event + k + 1; p->Eta = 0.1 * k; p->Phi = 0.2 * k; p->Mass = 0.14;
    }
    for (int k = 0; k < 3; ++k) {
      auto* p = (Tower*)towers.ConstructedAt(k);
      p->ET = 100 * event + k + 1; p->Eta = 0.1 * k; p->Phi = 0.2 * k; p->E = p->ET * cosh(p->Eta);
    }
    for (int j = 0; j < number[event]; ++j) {
      auto* jet = (Jet*)jets.ConstructedAt(j);
      jet->PT = 50 + j; jet->Eta = 0; jet->Phi = 0; jet->Mass = 3; jet->Flavor = j; jet->Constituents.Clear();
      if (event == 3 && j == 1) continue;
      jet->Constituents.Add(tracks.At(j));
      jet->Constituents.Add(towers.At(j));
      if (j == 0) jet->Constituents.Add(tracks.At(4));
    }
    tree.Fill();
  }
  tree.Write();
}
